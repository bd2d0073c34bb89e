// @ts-check
/* The looks of cells: the text of tasks, the edge of the agent's cells, the line of the sandbox, counts
 * of the sandbox, and thoughts. Nothing here changes the document. */

import { headerOf } from './cells.js';
import { factsOf, MIME } from './messages.js';
import { isAgents, isUntouched, noteOf, SANDBOX } from './notes.js';
import { shortModel } from './words.js';

/** @import { NotebookCells } from './cells.js' */
/** @import { Confinement } from './confinement.js' */
/** @import { Views } from './views.js' */

const TASK = 'jp-mod-agentTask';
const AGENTS = 'jp-mod-agents';
const SANDBOXED = 'jp-mod-sandboxed';
const COUNTED = 'jp-mod-sandboxCount';
const EDGE = 'jp-JupyterAgentEdge';
const THOUGHT = 'jp-JupyterAgentThought';
// types of text that have no language
const PLAIN = ['text/plain', 'text/x-jupyter-agent-task'];
const IS_TASK = /^%%agent(?!\w)/;
const IS_OURS = /^%%?agent(?!\w)/; // whose errors are this package's
const LINKS = ['error', 'stderr'].map(kind => `[data-mime-type="application/vnd.jupyter.${kind}"] a`).join();

export const STYLE = `
/* the line wrap of CodeMirror, which it finds out from this property */
.jp-Notebook .jp-mod-agentTask .jp-InputArea-editor .cm-content {
  white-space: break-spaces; overflow-wrap: anywhere; flex-shrink: 1;
}
.jp-mod-agentTask .cm-content > .cm-line:first-child { color: var(--jp-content-font-color2); }
.jp-mod-agents { position: relative; }
.jp-JupyterAgentEdge {
  position: absolute; left: 0; top: 1px; bottom: 1px; width: 7px; box-sizing: border-box;
  border-left: 3px solid var(--jp-brand-color1); opacity: 0.55;
}
.jp-JupyterAgentEdge[data-edited] { border-left-style: dotted; }
.jp-mod-sandboxed .cm-content > .cm-line:first-child {
  width: fit-content; margin-left: 5px; padding: 0 6px; border-radius: 8px;
  font-family: var(--jp-ui-font-family); font-size: 0.85em;
  box-shadow: inset 0 0 0 1px var(--jp-border-color1);
  background: var(--jp-layout-color1); color: var(--jp-content-font-color2);
}
.jp-mod-sandboxed .cm-content > .cm-line:first-child * { color: inherit !important; font-weight: inherit; }
/* [2] of the sandbox, not of the user's kernel: told apart by more than a colour */
.jp-mod-sandboxCount .jp-InputPrompt, .jp-mod-sandboxCount .jp-OutputPrompt {
  color: var(--jp-content-font-color2); font-style: italic; text-decoration: underline dotted;
}
.jp-mod-sandboxCount .jp-InputPrompt::before {
  content: 'sandbox'; display: block; /* beside the line that says so */
  font: italic 0.8em / 1.6 var(--jp-ui-font-family); text-decoration: none;
}
.jp-CellHeader:has(> .jp-JupyterAgentThought) { height: auto; }
.jp-JupyterAgentThought {
  margin: 0 0 4px calc(var(--jp-cell-prompt-width) + var(--jp-cell-collapser-width) + 5px);
  font-family: var(--jp-ui-font-family); font-size: var(--jp-ui-font-size1); color: var(--jp-content-font-color2);
}
@media (max-width: 760px) { .jp-JupyterAgentThought { margin-left: 20px; } } /* as JupyterLab's prompts */
.jp-JupyterAgentThought summary { cursor: pointer; width: fit-content; min-height: 24px; line-height: 24px; }
.jp-JupyterAgentThought div {
  max-height: 20em; overflow: auto; padding: 4px 8px; white-space: pre-wrap; overflow-wrap: anywhere;
  border-left: 2px solid var(--jp-border-color2); user-select: text;
}
`;

export class Looks {
  /**
   * @param {NotebookCells} cells
   * @param {Views} views
   * @param {Confinement} confinement */
  constructor(cells, views, confinement) {
    this.cells = cells;
    this.views = views;
    this.confinement = confinement;
    /** Cells whose type of text is kept as it should be.
     * @type {WeakSet<Lab.Cell>} */
    this.kept = new WeakSet();
    /** Widgets of tasks.
     * @type {WeakSet<Lab.CellWidget>} */
    this.watched = new WeakSet();
    this.frame = 0;
    /** The models of runs, as their headers name them.
     * @type {Map<string, string>} */
    this.models = new Map();
  }

  /** Dress the cells that users are in, in the next frame: they type. */
  dressActive() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      for (const { content } of this.views.panels) {
        const cell = this.cells.all[content.activeCellIndex];
        if (cell) {
          this.dress(cell, content.activeCellIndex);
        }
      }
    });
  }

  /** Dress every cell, once its widgets are there. */
  dressAll() {
    queueMicrotask(() => {
      const { all } = this.cells;
      this.models = new Map(all.flatMap(modelOf));
      all.forEach((cell, i) => {
        this.dress(cell, i);
      });
    });
  }

  /** @param {Lab.Cell} cell
   * @param {number} index */
  dress(cell, index) {
    const source = cell.sharedModel.getSource();
    const isCode = cell.type === 'code';
    const agents = isAgents(cell);
    const isTask = isCode && IS_TASK.test(source);
    const count = isCode && noteOf(cell)?.count;
    const classes = {
      [TASK]: isTask,
      [AGENTS]: agents,
      [SANDBOXED]: isCode && `${source}\n`.startsWith(SANDBOX),
      [COUNTED]: Boolean(count) && count === /** @type {Lab.CodeCell} */ (cell).executionCount
    };
    if (isTask || this.kept.has(cell)) {
      this.setTextType(cell);
    }
    for (const panel of this.views.panels) {
      const widget = panel.content.widgets[index];
      if (widget && !widget.isDisposed) {
        for (const [name, on] of Object.entries(classes)) {
          widget.node.classList.toggle(name, on);
        }
        this.drawEdge(widget, agents ? cell : undefined);
        this.drawThought(widget, agents ? cell : undefined);
        if (isCode && IS_OURS.test(source)) {
          this.watch(widget);
        }
      }
    }
  }

  /** A task is no Python: colours, indents and formatters go by the type of a cell's text. JupyterLab
   * sets it anew when it learns the language of the kernel.
   * @param {Lab.Cell} cell */
  setTextType(cell) {
    const isTask = cell.type === 'code' && IS_TASK.test(cell.sharedModel.getSource());
    if (!this.kept.has(cell)) {
      this.kept.add(cell);
      cell.mimeTypeChanged.connect(() => queueMicrotask(() => this.setTextType(cell)));
    }
    const [panel] = this.views.panels;
    if (isTask && !PLAIN.includes(cell.mimeType)) {
      cell.mimeType = PLAIN[0];
    } else if (!isTask && PLAIN.includes(cell.mimeType) && panel) {
      cell.mimeType = panel.content.codeMimetype;
    }
  }

  /** @param {Lab.CellWidget} widget
   * @param {Lab.Cell | undefined} cell None of the agent's has no edge. */
  drawEdge(widget, cell) {
    const edge = childOf(widget.node, EDGE, 'div', cell !== undefined);
    if (edge && cell) {
      const note = noteOf(cell);
      const edited = note ? !isUntouched(cell, note) : true;
      edge.toggleAttribute('data-edited', edited);
      edge.title = [this.whose(note), edited ? 'edited' : ''].filter(Boolean).join(', ');
    }
  }

  /** Say of which step and model a cell is.
   * @param {Lab.Note | undefined} note */
  whose(note) {
    const step = note?.step ? `step ${note.step}` : '';
    const model = this.models.get(note?.run ?? '');
    const parts = [step, model].filter(Boolean).join(' · ');
    return parts ? `The agent's: ${parts}` : "The agent's";
  }

  /** @param {Lab.CellWidget} widget
   * @param {Lab.Cell | undefined} cell */
  drawThought(widget, cell) {
    const thought = cell && noteOf(cell)?.thought;
    const wanted = typeof thought === 'string' && thought !== '';
    const header = widget.node.querySelector(':scope > .jp-CellHeader');
    if (header) {
      const details = childOf(header, THOUGHT, 'details', wanted);
      if (details && wanted && !details.firstChild) {
        fillThought(details, thought);
      }
    } else if (wanted) {
      void widget.ready.then(() => this.dressAll()); // it is drawn when it comes into view
    }
  }

  /** Keep the cell of a task as it should be: JupyterLab draws its parts later, and anew.
   * @param {Lab.CellWidget} widget */
  watch(widget) {
    if (this.watched.has(widget)) {
      return;
    }
    this.watched.add(widget);
    const look = () => {
      const cell = this.cells.all[this.indexOf(widget)];
      if (cell && IS_OURS.test(cell.sharedModel.getSource())) {
        unlink(widget);
        dropLanguage(widget, cell);
      }
    };
    const observer = new MutationObserver(look);
    observer.observe(widget.node, { subtree: true, childList: true, attributeFilter: ['data-language'] });
    widget.disposed.connect(() => observer.disconnect());
    look();
  }

  /** @param {Lab.CellWidget} widget */
  indexOf(widget) {
    return Math.max(...[...this.views.panels].map(({ content }) => content.widgets.indexOf(widget)));
  }
}

/** The run of a %%agent cell, and its model.
 * @param {Lab.Cell} cell
 * @returns {Array<[string, string]>} Empty of any other cell. */
function modelOf(cell) {
  const note = noteOf(cell);
  const header = cell.type === 'code' && note?.state ? headerOf(cell)?.[MIME] : undefined;
  return note && header ? [[note.run, shortModel(factsOf(header).model ?? '')]] : [];
}

/** Make text of the addresses in the errors of a cell: what failed is nothing to go to.
 * @param {Lab.CellWidget} widget */
function unlink(widget) {
  for (const link of widget.node.querySelectorAll(LINKS)) {
    link.replaceWith(link.textContent ?? '');
  }
}

/** Have an editor take the text of a task for plain text: a language that JupyterLab was still loading
 * has come after that.
 * @param {Lab.CellWidget} widget
 * @param {Lab.Cell} cell */
function dropLanguage(widget, cell) {
  if (widget.node.querySelector('.cm-content[data-language]')) {
    const at = PLAIN.indexOf(cell.mimeType);
    if (at >= 0) {
      cell.mimeType = PLAIN[1 - at]; // only a change is heard
    }
  }
}

/** Write a thought into the part that folds it away.
 * @param {HTMLElement} details
 * @param {string} thought */
function fillThought(details, thought) {
  const summary = document.createElement('summary');
  summary.textContent = 'Reasoning';
  summary.addEventListener('keydown', event => {
    if (event.key === 'Enter' || event.key === ' ') {
      event.stopPropagation(); // it opens the text, and is not the notebook's
    }
  });
  const text = document.createElement('div');
  text.textContent = thought; // never HTML
  details.append(summary, text);
}

/** Find a node of ours in a part of a cell, make it, or take it away. It comes last: JupyterLab counts
 * the nodes before those that it inserts.
 * @param {Element} parent
 * @param {string} name Its class.
 * @param {string} tag
 * @param {boolean} wanted
 * @returns {HTMLElement | undefined} */
function childOf(parent, name, tag, wanted) {
  const found = /** @type {HTMLElement | undefined} */ (
    [...parent.children].find(child => child.classList.contains(name))
  );
  if (!wanted) {
    found?.remove();
    return;
  }
  if (found) {
    return found;
  }
  const made = document.createElement(tag);
  made.className = name;
  parent.append(made);
  return made;
}
