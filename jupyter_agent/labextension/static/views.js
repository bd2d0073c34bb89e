// @ts-check
/* The views of one notebook: scrolling, folding, and the bar at the foot. */

import { BAR, FOOT } from './bar.js';
import { isHeld, placeholderOf } from './notes.js';
import { hasJustEnded, isWorking, known, STOP_STAYS_MS } from './runs.js';

/** @import { NotebookCells } from './cells.js' */

const STILL_MS = 2000; // after the user has done something, in which nothing scrolls
const NEAR_PX = 60; // that the end of a cell may be below the edge and still be looked at

export class Views {
  /**
   * @param {NotebookCells} cells
   * @param {Map<string, Lab.Run>} runs
   * @param {Promise<Lab.BarKit>} kit */
  constructor(cells, runs, kit) {
    this.cells = cells;
    this.runs = runs;
    this.kit = kit;
    /** @type {Set<Lab.Panel>} */
    this.panels = new Set();
    /** When the user last used key, wheel or pointer in a view.
     * @type {Map<Lab.Panel, number>} */
    this.handled = new Map();
    /** Whether the user looks at the end of the run there; until that is known, not in it.
     * @type {Map<Lab.Panel, boolean>} */
    this.looking = new Map();
    /** How far each view is scrolled.
     * @type {Map<Lab.Panel, number>} */
    this.tops = new Map();
    /** Bars at the foot of views, for a run whose own bar is out of sight.
     * @type {Map<Lab.Panel, Lab.Bar>} */
    this.feet = new Map();
    /** Cells that are folded away.
     * @type {Set<string>} */
    this.hidden = new Set();
    /** Cells whose Markdown is being drawn, and whether it has changed since.
     * @type {Map<string, boolean>} */
    this.drawing = new Map();
    /** Runs that the views are about to be scrolled to.
     * @type {Set<string>} */
    this.scrolling = new Set();
  }

  /** @param {Lab.Panel} panel */
  add(panel) {
    this.panels.add(panel);
    panel.disposed.connect(() => {
      this.feet.get(panel)?.dispose();
      for (const each of [this.panels, this.handled, this.looking, this.tops, this.feet]) {
        each.delete(panel);
      }
    });
    const handled = () => {
      this.handled.set(panel, Date.now());
      this.looking.delete(panel);
    };
    for (const kind of ['keydown', 'wheel', 'pointerdown']) {
      panel.node.addEventListener(kind, handled, { capture: true, passive: true });
    }
    void this.cells.context.ready.then(() => {
      panel.content.outerNode.addEventListener('scroll', () => this.scrolled(panel), { passive: true });
      this.fold();
    });
  }

  /** Whether one of the views shows its notebook in this widget.
   * @param {Lab.Widget} content */
  has(content) {
    return [...this.panels].some(panel => panel.content === content);
  }

  /** Milliseconds since the user last used one of the views. */
  get idle() {
    return Date.now() - Math.max(0, ...this.handled.values());
  }

  /** The place of the cell that holds a node of a view; -1 if none does.
   * @param {Lab.Panel} panel
   * @param {EventTarget | null} target */
  indexOf(panel, target) {
    const node = /** @type {Node | null} */ (target);
    return panel.content.widgets.findIndex(widget => widget.node.contains(node));
  }

  /** @param {string} html */
  sanitize(html) {
    const [panel] = this.panels;
    return panel?.content.rendermime.sanitizer.sanitize(html) ?? '';
  }

  /** Do something with the widgets of a cell, which come to be right after its model.
   * @param {Lab.Cell} cell
   * @param {(widget: Lab.CellWidget) => void} change */
  change(cell, change) {
    queueMicrotask(() => {
      const index = this.cells.indexOf(cell);
      for (const panel of this.panels) {
        const widget = panel.content.widgets[index];
        if (widget && !widget.isDisposed) {
          change(widget);
        }
      }
    });
  }

  /** Have JupyterLab draw cells that have just been inserted. With `windowingMode: full`, the default
   * of JupyterLab 4.2, it draws a new cell when the page is idle, to measure it, and hides it in the
   * next frame (`StaticNotebook._runOnIdleTime`), even if that frame has found it to be on the screen.
   * This update shows it again in the frame after that. */
  drawInserted() {
    requestAnimationFrame(() => {
      for (const panel of this.panels) {
        panel.content.update();
      }
    });
  }

  /** A run that this page has asked for has begun.
   * @param {Lab.Cell} anchor */
  begin(anchor) {
    for (const panel of this.panels) {
      // what JupyterLab loads with the first Markdown stops the page for a third of a second
      const { latexTypesetter, markdownParser } = panel.content.rendermime;
      void latexTypesetter?.typeset(document.createElement('div'));
      void markdownParser?.render('`x`');
      this.handled.delete(panel); // the key that has started it
      this.looking.set(panel, this.sees(panel, anchor));
    }
  }

  /** Draw Markdown as it grows: JupyterLab waits until it has not changed for a second.
   * @param {Lab.Run} run
   * @param {Lab.Cell} cell */
  async draw(run, cell) {
    if (this.drawing.has(cell.id)) {
      this.drawing.set(cell.id, true);
      return;
    }
    do {
      this.drawing.set(cell.id, false);
      const began = performance.now();
      const data = { 'text/markdown': cell.sharedModel.getSource() };
      const model = { data, metadata: {}, trusted: false, setData: () => {} };
      const drawn = [];
      for (const panel of this.panels) {
        const widget = panel.content.widgets[this.cells.indexOf(cell)];
        if (widget?.rendered && !widget.placeholder) {
          drawn.push(widget.renderer?.renderModel(model));
        }
      }
      await Promise.all(drawn).catch(() => {});
      this.follow(run); // it may have grown
      const took = performance.now() - began;
      await new Promise(resolve => setTimeout(resolve, took)); // the page has half of its time left
    } while (this.drawing.get(cell.id) && !this.cells.closed);
    this.drawing.delete(cell.id);
  }

  // -- scrolling

  /** Whether the end of a cell is on the screen.
   * @param {Lab.Panel} panel
   * @param {Lab.Cell} cell */
  sees(panel, cell) {
    const box = panel.content.widgets[this.cells.indexOf(cell)]?.node.getBoundingClientRect();
    const pane = panel.content.outerNode.getBoundingClientRect();
    return Boolean(box?.height) && box.bottom > pane.top && box.bottom <= pane.bottom + NEAR_PX;
  }

  /** A view has been scrolled, by us or by whatever else: a jump from the table of contents is no
   * key, wheel or press in the view.
   * @param {Lab.Panel} panel */
  scrolled(panel) {
    const top = panel.content.outerNode.scrollTop;
    const before = this.tops.get(panel) ?? top;
    this.tops.set(panel, top);
    const run = [...this.runs.values()].find(each => isWorking(each.id));
    const cell = run && this.cells.latest(run);
    if (cell && top < before) {
      this.looking.set(panel, this.sees(panel, cell)); // we only ever scroll down
    }
    this.showFoot(panel);
  }

  /** Whether a view's user looks at the end of a run, and does nothing else.
   * @param {Lab.Panel} panel
   * @param {Lab.Cell | undefined} cell Its newest. */
  follows(panel, cell) {
    const focus = document.activeElement;
    const types = panel.node.contains(focus) && focus?.closest('.cm-content');
    // the empty cell that comes with Shift+Enter is nothing that anybody edits
    const edits = types && this.cells.all[this.indexOf(panel, focus)]?.sharedModel.getSource();
    if (!cell || edits || Date.now() - (this.handled.get(panel) ?? 0) < STILL_MS) {
      return false;
    }
    if (!this.looking.has(panel)) {
      this.looking.set(panel, this.sees(panel, cell));
    }
    return this.looking.get(panel);
  }

  /** Change the cells of a run, and scroll down with it where its end was looked at before.
   * @param {Lab.Run} run
   * @param {() => void} change */
  followed(run, change) {
    const latest = this.cells.latest(run);
    // each view, as `follows` also notes where its user looks
    const following = [...this.panels].filter(panel => this.follows(panel, latest));
    change();
    if (following.length && !this.scrolling.has(run.id)) {
      this.scrolling.add(run.id);
      requestAnimationFrame(() => {
        this.scrolling.delete(run.id);
        this.follow(run);
      });
    }
    this.showFeet();
  }

  /** Scroll down as far as a run has grown. Not with scrollToItem, which tries for long and
   * takes the scroll from who has used it meanwhile.
   * @param {Lab.Run} run */
  follow(run) {
    const cell = this.cells.latest(run);
    for (const panel of [...this.panels].filter(each => this.follows(each, cell))) {
      let index = cell ? this.cells.indexOf(cell) : -1;
      const boxOf = () => panel.content.widgets[index]?.node.getBoundingClientRect();
      let box = boxOf();
      while (box && !box.height) {
        index--; // it is not drawn yet: go on to where it will be
        box = boxOf();
      }
      const pane = panel.content.outerNode;
      const foot = this.feet.get(panel)?.node.offsetHeight ?? 0;
      const below = (box?.bottom ?? 0) - pane.getBoundingClientRect().bottom + foot;
      if (below > 0) {
        pane.scrollTop += below;
      }
    }
  }

  // -- the bar at the foot

  showFeet() {
    for (const panel of this.panels) {
      this.showFoot(panel);
    }
  }

  /** Show how a run is getting on, and its Stop, at the foot of a view where its own bar is out of
   * sight.
   * @param {Lab.Panel} panel */
  showFoot(panel) {
    const run = [...this.runs.values()].find(each => isWorking(each.id) || hasJustEnded(each.id));
    const foot = this.feet.get(panel);
    if (!run) {
      if (foot && !foot.isHidden) {
        foot.hide();
      }
    } else if (foot) {
      const index = this.cells.all.findIndex(cell => cell.id === run.anchor);
      const own = panel.content.widgets[index]?.node.querySelector(`.${BAR}`)?.getBoundingClientRect();
      const pane = panel.content.outerNode.getBoundingClientRect();
      const seen = own?.height && own.bottom > pane.top && own.top < pane.bottom;
      foot.about(run.id);
      foot.setHidden(Boolean(seen));
      if (!isWorking(run.id)) {
        setTimeout(() => !this.cells.closed && this.showFeet(), STOP_STAYS_MS);
      }
    } else if (panel.isAttached) {
      void this.kit.then(({ Bar, Widget }) => {
        if (!this.feet.has(panel) && !panel.isDisposed) {
          const made = new Bar();
          made.addClass(FOOT);
          this.feet.set(panel, made);
          Widget.attach(made, panel.content.node);
          this.showFoot(panel);
        }
      });
    }
  }

  // -- folding

  /** Fold the cells of runs away, or out again. */
  fold() {
    const hidden = new Set([...this.runs.keys()].map(placeholderOf));
    for (const run of this.runs.values()) {
      if (known.get(run.id)?.folded) {
        const answer = /^(done|recorded)$/.test(known.get(run.id)?.state ?? '') && this.cells.latest(run);
        for (const cell of this.cells.of(run).filter(each => isHeld(run, each))) {
          if (cell !== answer || cell.type !== 'markdown') {
            hidden.add(cell.id);
          }
        }
      }
    }
    this.cells.all.forEach(({ id }, i) => {
      const hide = hidden.has(id);
      for (const panel of this.panels) {
        const widget = panel.content.widgets[i];
        if (widget && (hide || this.hidden.has(id)) && widget.isHidden !== hide) {
          widget.setHidden(hide);
        }
      }
    });
    this.hidden = hidden;
  }
}
