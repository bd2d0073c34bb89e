// @ts-check
/* Show what the user is asked on the cell in question, and send the answer.
 *
 * The question itself is an `input_request` of the kernel's, for which JupyterLab shows an input box
 * below the %%agent cell. A message of ours says which cell it is about. While the question is
 * shown there, that box is hidden; where it cannot be shown, the box is as it always was. The
 * answer is the `input_reply` to that request, and nothing else is read of this page. */

import { questionNode } from './question.js';

/** @import { NotebookCells } from './cells.js' */
/** @import { Views } from './views.js' */

const ASKED = 'jp-mod-jupyterAgentAsked'; // on a cell whose input box is not shown
const BOX = 'jp-OutputArea-stdin-item';
const TEXT = '.cm-content, input, textarea, select';
const STILL_MS = 2000; // after the user has done something else, in which no button gets the focus
const REST_MS = 500; // in which a new question cannot be answered: a key or a click was for another

export class Asking {
  /**
   * @param {NotebookCells} cells
   * @param {Views} views
   * @param {Promise<Lab.BarKit>} kit */
  constructor(cells, views, kit) {
    this.cells = cells;
    this.views = views;
    this.kit = kit;
    /** @type {Lab.Kernel | null} */
    this.kernel = null;
    /** The question that is open.
     * @type {Lab.Question | null} */
    this.open = null;
    /** The request for input that has not been answered.
     * @type {Lab.Message | null} */
    this.request = null;
    /** Where the question is drawn, by view.
     * @type {Map<Lab.Panel, {widget: Lab.Widget, cell: Lab.CellWidget, anchor?: Lab.CellWidget}>} */
    this.drawn = new Map();
    this.since = 0;
    this.editing = false;
    /** Where the focus was before JupyterLab's input box took it.
     * @type {EventTarget | null} */
    this.left = null;
  }

  /** Another view of the notebook.
   * @param {Lab.Panel} panel */
  add(panel) {
    panel.node.addEventListener('focusin', event => {
      const target = /** @type {Element} */ (event.target);
      if (target.matches('.jp-Stdin-input')) {
        this.left = event.relatedTarget;
      }
    });
    // before the shortcuts, which Notebook 7 looks at before any other node
    const pressed = /** @param {KeyboardEvent} event */ event => this.pressed(panel, event);
    window.addEventListener('keydown', pressed, { capture: true });
    panel.disposed.connect(() => {
      window.removeEventListener('keydown', pressed, { capture: true });
      this.drawn.delete(panel);
    });
    void this.cells.context.ready.then(() => this.draw());
  }

  // -- messages

  /** @param {Lab.Kernel | null} kernel */
  listenTo(kernel) {
    this.over();
    this.kernel = kernel;
  }

  /** Hear whether the kernel asks for input, and whether it has its answer.
   * @param {Lab.Message} msg */
  hear(msg) {
    const { msg_type: kind } = msg.header;
    if (kind === 'input_request') {
      this.request = msg;
      this.draw();
    } else if (kind === 'input_reply') {
      this.request = null; // if it is not ours, it was given in the box
      this.close();
    } else if (kind === 'status' && msg.content.execution_state === 'idle' && this.isOf(msg)) {
      this.over(); // a message that said so was lost
    }
  }

  /** Whether a message answers the request for which the kernel asks.
   * @param {Lab.Message} msg */
  isOf(msg) {
    return this.request?.parent_header.msg_id === msg.parent_header.msg_id;
  }

  /** The kernel says what it asks.
   * @param {Lab.Question} question
   * @param {{again: boolean}} how Whether this page has asked for that: it may have missed the
   *   kernel's request for input. */
  ask(question, { again }) {
    if (this.open?.number !== question.number) {
      this.close();
      this.open = question;
      this.since = performance.now();
    }
    this.open.again ||= again;
    this.draw();
  }

  /** The kernel asks nothing any more: it has its answer from elsewhere, was stopped, or is gone. */
  over() {
    this.request = null;
    this.dismiss();
    this.close();
  }

  /** Take the question away. */
  close() {
    const had = [...this.drawn].filter(([, { widget }]) => widget.node.contains(document.activeElement));
    this.open = null;
    this.editing = false;
    for (const { widget, anchor } of this.drawn.values()) {
      widget.dispose();
      anchor?.node.classList.remove(ASKED);
    }
    this.drawn.clear();
    for (const [panel] of had) {
      panel.content.activate(); // the keyboard stays in the notebook
    }
  }

  // -- the page

  /** Show the question on its cell, in every view that shows that cell. */
  draw() {
    const question = this.open;
    if (question && (this.request || question.again)) {
      void this.kit.then(({ Widget }) => {
        if (question === this.open) {
          for (const panel of this.views.panels) {
            this.drawInto(panel, question, Widget);
          }
        }
      });
    }
  }

  /** @param {Lab.Panel} panel
   * @param {Lab.Question} question
   * @param {typeof Lab.Widget} Widget */
  drawInto(panel, question, Widget) {
    const cell = this.widgetOf(panel, question.id);
    const before = this.drawn.get(panel);
    if (cell && before?.cell === cell && !before.widget.isDisposed) {
      return;
    }
    before?.widget.dispose();
    this.drawn.delete(panel);
    const anchor = this.widgetOf(panel, question.anchor);
    if (!cell || cell.isHidden) {
      anchor?.node.classList.remove(ASKED); // the box is there
      return;
    }
    if (cell.placeholder) { // far away
      void cell.ready.then(() => this.draw());
      if (!this.isTyping(panel)) {
        void this.bring(panel, cell);
      }
      return;
    }
    const widget = new Widget({ node: this.nodeFor(panel, question, cell) });
    const { layout } = cell;
    const input = layout.widgets.findIndex(each => each.node.matches('.jp-Cell-inputWrapper'));
    layout.insertWidget(input + 1, widget);
    this.drawn.set(panel, { widget, cell, anchor });
    const typing = this.isTyping(panel);
    const taken = document.activeElement?.matches('.jp-Stdin-input');
    anchor?.node.classList.add(ASKED);
    if (typing && taken && this.left instanceof HTMLElement) {
      this.left.focus();
    }
    this.rest(panel, widget, typing);
  }

  /** Have the buttons work once the question has been seen, and give the focus to Run.
   * @param {Lab.Panel} panel
   * @param {Lab.Widget} widget
   * @param {boolean} typing */
  rest(panel, widget, typing) {
    const buttons = [...widget.node.querySelectorAll('button')];
    const use = () => {
      for (const button of buttons) {
        button.disabled = false;
      }
      if (!typing && !this.isTyping(panel) && !widget.isDisposed) {
        this.reveal(panel, { jump: false });
      }
    };
    const left = REST_MS - (performance.now() - this.since);
    for (const button of buttons) {
      button.disabled = left > 0;
    }
    if (!typing) {
      requestAnimationFrame(() => this.scrollTo(panel));
    }
    setTimeout(use, Math.max(0, left));
  }

  /** @param {Lab.Panel} panel
   * @param {Lab.Question} question
   * @param {Lab.CellWidget} cell */
  nodeFor(panel, question, cell) {
    const text = question.text || (this.isWide(cell) && question.kind === 'code' ? question.code : '');
    return questionNode(question.kind, text, {
      run: () => this.answer('y'),
      runAll: () => this.answer('r'),
      refuse: why => this.send(`n ${why}`),
      edit: () => this.edit(panel, cell)
    });
  }

  /** Whether a part of a cell's code is beyond its right edge.
   * @param {Lab.CellWidget} cell */
  isWide(cell) {
    const scroller = cell.node.querySelector('.cm-scroller');
    return scroller ? scroller.scrollWidth > scroller.clientWidth + 1 : false;
  }

  /** @param {Lab.Panel} panel
   * @param {string} id */
  widgetOf(panel, id) {
    const index = this.cells.all.findIndex(cell => cell.id === id);
    return index < 0 ? undefined : panel.content.widgets[index];
  }

  /** Whether the user does something else: what they type is not for us.
   * @param {Lab.Panel} panel */
  isTyping(panel) {
    const focus = document.activeElement;
    const inBox = focus?.matches('.jp-Stdin-input');
    const at = /** @type {Element | null} */ (inBox ? this.left : focus);
    const field = at?.closest?.(TEXT);
    const index = field ? this.views.indexOf(panel, field) : -1;
    // the empty cell that comes with Shift+Enter is nothing that anybody edits
    const empty = index >= 0 && field?.matches('.cm-content') && !this.cells.all[index].sharedModel.getSource();
    // before there is a run, a key was the one that runs the cell
    const handled = this.open?.run ? (this.views.handled.get(panel) ?? 0) : 0;
    return Boolean(field && !empty) || Date.now() - handled < STILL_MS;
  }

  /** Bring the question into sight, and give it the focus: the button Run only if all of the
   * question can be seen.
   * @param {Lab.Panel} panel
   * @param {{jump: boolean}} how Whether the user asks for it, wherever they are. */
  reveal(panel, { jump }) {
    const cell = this.widgetOf(panel, this.open?.id ?? '');
    if (!cell || cell.isHidden) {
      panel.node.querySelector('.jp-Stdin-input')?.scrollIntoView({ block: 'nearest' });
      return;
    }
    this.focus(panel);
    if (jump) {
      this.views.handled.delete(panel); // that was for us
      void this.bring(panel, cell).then(() => this.focus(panel));
    }
  }

  /** Have JupyterLab scroll to a cell and draw it, wherever it is.
   * @param {Lab.Panel} panel
   * @param {Lab.CellWidget} cell */
  async bring(panel, cell) {
    await panel.content.scrollToItem(panel.content.widgets.indexOf(cell), 'smart').catch(() => {});
    await cell.ready;
  }

  /** @param {Lab.Panel} panel */
  focus(panel) {
    const node = this.drawn.get(panel)?.widget.node;
    const fits = this.scrollTo(panel);
    (fits ? node?.querySelector('button') : node)?.focus({ preventScroll: true });
  }

  /** Scroll to a question and its cell; tell whether all of them are seen.
   * @param {Lab.Panel} panel */
  scrollTo(panel) {
    const pane = panel.content.outerNode;
    const box = this.drawn.get(panel)?.cell.node.getBoundingClientRect();
    if (!box?.height) {
      return false;
    }
    const { top, height } = pane.getBoundingClientRect();
    const foot = this.views.feet.get(panel);
    const room = height - (foot && !foot.isHidden ? foot.node.offsetHeight : 0);
    const fits = box.height <= room;
    if (box.top < top || !fits) {
      pane.scrollTop += box.top - top;
    } else if (box.bottom > top + room) {
      pane.scrollTop += box.bottom - top - room;
    }
    return fits;
  }

  // -- the user

  /** Let the cell run as it stands there.
   * @param {string} word */
  answer(word) {
    const question = this.open;
    const source = this.cells.find(question?.id ?? '')?.sharedModel.getSource();
    if (question?.kind !== 'code' || source === undefined || source === question.first_line + question.code) {
      this.send(word);
      return;
    }
    const first = source.startsWith(question.first_line) ? question.first_line.length : 0;
    const code = JSON.stringify(source.slice(first));
    this.send(`${word === 'y' ? 'e' : word} ${code}`);
  }

  /** Send the answer, and take the question away.
   * @param {string} answer */
  send(answer) {
    const question = this.open;
    if (!question || !this.kernel) {
      return;
    }
    for (const panel of this.views.panels) {
      this.views.handled.delete(panel); // that was for us
    }
    this.dismiss();
    const value = `#${question.number} ${answer}`;
    const header = this.request?.header ?? {};
    this.close();
    this.kernel.sendInputReply({ status: 'ok', value }, header);
  }

  /** Take away JupyterLab's input box, for which there is no answer to wait. */
  dismiss() {
    for (const panel of this.views.panels) {
      const area = this.open && this.widgetOf(panel, this.open.anchor)?.outputArea;
      for (const box of [...(area?.widgets ?? [])].filter(each => each.node.matches(`.${BOX}`))) {
        box.dispose();
      }
    }
  }

  /** Put the cursor into the cell.
   * @param {Lab.Panel} panel
   * @param {Lab.CellWidget} cell */
  edit(panel, cell) {
    this.editing = true;
    cell.inputHidden = false;
    panel.content.deselectAll();
    panel.content.activeCellIndex = panel.content.widgets.indexOf(cell);
    panel.content.mode = 'edit';
    cell.editor?.focus();
  }

  /** Shift+Enter in the cell that is edited is Run.
   * @param {Lab.Panel} panel
   * @param {KeyboardEvent} event */
  pressed(panel, event) {
    const editor = /** @type {Element} */ (event.target).closest('.cm-content');
    const modified = event.shiftKey || event.ctrlKey || event.metaKey || event.altKey;
    const inside = this.editing && editor && this.drawn.get(panel)?.cell.node.contains(editor);
    if (inside && event.key === 'Enter' && modified) {
      event.preventDefault();
      event.stopPropagation();
      this.answer('y');
    }
  }
}
