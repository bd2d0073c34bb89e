// @ts-check
/* The entries of the toolbar, the palette and the context menu: each writes a %%agent cell, which the
 * user sees and runs. */

import { hasMagics, LOAD, loadMagics } from './kernel.js';
import { isAgents } from './notes.js';
import { about, mending } from './tasks.js';

/** @import { LiveNotebook } from './notebook.js' */

const CATEGORY = 'Agent';
const OURS = /^\s*%{1,2}agent\b/; // a cell that is a command to the agent
const ICON = `<svg xmlns="http://www.w3.org/2000/svg" width="16" viewBox="0 0 24 24">
  <g class="jp-icon3" fill="#616161">
    <path d="M20 3H4a2 2 0 0 0-2 2v16l4-4h14a2 2 0 0 0 2-2V5a2 2 0 0 0-2-2zm0 12H5.2L4 16.2V5h16v10z"/>
    <path d="M12 6l1.1 2.9L16 10l-2.9 1.1L12 14l-1.1-2.9L8 10l2.9-1.1z"/>
  </g>
</svg>`;

/** What the entries need of JupyterLab.
 * @typedef {object} Kit
 * @property {new (options: {name: string, svgstr: string}) => object} LabIcon
 * @property {{warning(text: string): void}} Notification */
/** How a command is called.
 * @typedef {{toolbar?: boolean}} Args */
/** @typedef {{panel: Lab.Panel, notebook: LiveNotebook}} Place */

export class Entries {
  /**
   * @param {Lab.App} app
   * @param {(panel: Lab.Panel) => LiveNotebook | undefined} notebookOf
   * @param {Kit} kit */
  constructor(app, notebookOf, { LabIcon, Notification }) {
    this.app = app;
    this.notebookOf = notebookOf;
    this.tell = /** @param {string} text */ text => Notification.warning(text);
    this.icon = new LabIcon({ name: 'jupyter-agent:ask', svgstr: ICON });
    /** The notebook that the user was in last.
     * @type {Lab.Panel | null} */
    this.panel = null;
  }

  /** Add the commands, and to the palette if there is one.
   * @param {Lab.Palette | null} palette */
  add(palette) {
    const { commands } = this.app;
    commands.addCommand('jupyter-agent:ask', {
      label: 'Ask the Agent',
      caption: 'Ask the agent: write an %%agent cell below',
      icon: this.icon,
      isVisible: () => this.latest !== null,
      // a toolbar is that of the notebook that the user was in last, as for JupyterLab's own buttons
      isEnabled: /** @param {Args} args */ ({ toolbar }) => Boolean(toolbar) || this.place !== null,
      execute: /** @param {Args} args */ ({ toolbar }) => this.ask(toolbar ? this.latest : this.place)
    });
    this.app.shell.currentChanged.connect(() => commands.notifyCommandChanged('jupyter-agent:ask'));
    commands.addCommand('jupyter-agent:ask-about-cell', {
      label: 'Ask the Agent About This Cell',
      caption: 'Write an %%agent cell about the active cell',
      icon: this.icon,
      isVisible: () => this.own !== null,
      isEnabled: () => this.own !== null,
      execute: () => this.askAboutCell()
    });
    commands.addCommand('jupyter-agent:fix', {
      label: 'Fix This Error With the Agent',
      caption: 'Write a cell that has the agent explain and mend the error of the active cell',
      icon: this.icon,
      isVisible: () => this.failed !== null,
      isEnabled: () => this.failed !== null,
      execute: () => this.fix()
    });
    for (const command of ['jupyter-agent:ask', 'jupyter-agent:ask-about-cell', 'jupyter-agent:fix']) {
      palette?.addItem({ command, category: CATEGORY });
    }
  }

  // -- where the user is

  /** The notebook that the user was in last, if it is one of Python.
   * @returns {Place | null} */
  get latest() {
    const current = /** @type {Lab.Panel | null} */ (this.app.shell.currentWidget);
    if (current?.context && this.notebookOf(current)) {
      this.panel = current;
    }
    const { panel } = this;
    const notebook = panel && !panel.isDisposed ? this.notebookOf(panel) : undefined;
    return panel && notebook?.isPython ? { panel, notebook } : null;
  }

  /** The notebook that the user is in, if it is one of Python. */
  get place() {
    const { latest } = this;
    return latest?.panel === this.app.shell.currentWidget ? latest : null;
  }

  /** The active cell, if it holds code that is no command to the agent.
   * @returns {{cell: Lab.CodeCell, panel: Lab.Panel, notebook: LiveNotebook} | null} */
  get own() {
    const { place } = this;
    const cell = place?.notebook.cells.all[place.panel.content.activeCellIndex];
    const source = cell?.sharedModel.getSource() ?? '';
    const asks = cell?.type !== 'code' || !source.trim() || OURS.test(source);
    return place && cell && !asks ? { ...place, cell: /** @type {Lab.CodeCell} */ (cell) } : null;
  }

  /** The active cell, if it is the user's own and has failed. */
  get failed() {
    const { own } = this;
    const error = own?.cell.outputs?.toJSON().find(output => output.output_type === 'error');
    return own && error && !isAgents(own.cell) ? { ...own, error } : null;
  }

  // -- the entries

  /** @param {Place | null} place */
  ask(place) {
    if (place) {
      this.write(place, '%%agent\n');
    }
  }

  askAboutCell() {
    const { own } = this;
    if (own) {
      const source = own.cell.sharedModel.getSource();
      const isLast = own.notebook.isLastRun(own.cell);
      this.write(own, about(source, { told: isLast && !own.notebook.confinement.byKernel ? '-c 1' : '' }));
    }
  }

  fix() {
    const { failed } = this;
    if (failed) {
      const { cell, error, notebook } = failed;
      const context = !notebook.confinement.byKernel;
      const source = cell.sharedModel.getSource();
      this.write(failed, notebook.isLastFailed(cell) ? '%agent fix' : mending(source, error, { context }));
    }
  }

  /** Write a cell below the active one, or into it if it is empty, with the cursor in its second
   * line, and have the kernel know the magics.
   * @param {Place} place
   * @param {string} source */
  write({ panel, notebook }, source) {
    const { cells } = notebook;
    let index = panel.content.activeCellIndex;
    const active = cells.all[index];
    if (active?.type === 'code' && !active.sharedModel.getSource() && !isAgents(active)) {
      active.sharedModel.setSource(source);
    } else {
      index = Math.min(index + 1, cells.all.length);
      while (isAgents(cells.all[index])) {
        index++; // not between a run and its cells
      }
      cells.insertUndoably(index, [{ cell_type: 'code', source, metadata: {} }]);
    }
    const { id } = cells.all[index];
    queueMicrotask(() => this.goTo(panel, index));
    void this.load(notebook, id);
  }

  /** Put the cursor where the task is to be written.
   * @param {Lab.Panel} panel
   * @param {number} index */
  goTo(panel, index) {
    const widget = panel.content.widgets[index];
    panel.content.deselectAll();
    panel.content.activeCellIndex = index;
    panel.content.mode = 'edit';
    void panel.content.scrollToItem(index, 'smart').catch(() => {});
    void widget.ready.then(() => {
      const { editor } = widget;
      if (editor) {
        editor.focus();
        editor.setCursorPosition({ line: Math.min(1, editor.lineCount - 1), column: 0 });
      }
    });
  }

  /** Have the kernel load the magics, and the notebook say so: above the new cell, for who runs it
   * in a new kernel.
   * @param {LiveNotebook} notebook
   * @param {string} id Of the new cell. */
  async load(notebook, id) {
    const { cells, kernel, confinement } = notebook;
    const loads = cells.all.some(cell => cell.type === 'code' && cell.sharedModel.getSource().includes(LOAD));
    if (!kernel || confinement.byKernel || (await hasMagics(kernel))) {
      return;
    }
    const loaded = await loadMagics(kernel);
    const cell = cells.find(id);
    if (!loaded) {
      this.tell('This kernel has no jupyter_agent; install jupyter-agent-kernel in its environment');
    } else if (cell && !loads) {
      cells.insertUndoably(cells.indexOf(cell), [{ cell_type: 'code', source: LOAD, metadata: {} }]);
    }
  }
}
