// @ts-check
/* Keep %%sandbox on the first line of the agent's cells, where the kernel is the user's own. */

import { isAgents, lacksSandbox, SANDBOX, withOneSandbox } from './notes.js';

/** @import { NotebookCells } from './cells.js' */

export class Confinement {
  /** @param {NotebookCells} cells */
  constructor(cells) {
    this.cells = cells;
    /** Whether every cell of the kernel runs in the sandbox; undefined until it has said so.
     * @type {boolean | undefined} */
    this.byKernel = undefined;
  }

  /** Give code of the sandbox's the line that keeps it there: the half of a cell that was split, a
   * copy from another notebook, a cell whose first line was deleted, a saved run.
   * @param {Lab.Cell} cell */
  confine(cell) {
    if (!this.byKernel && lacksSandbox(cell)) {
      // one undo takes it back with what was done before it
      this.cells.undoably(() => cell.sharedModel.updateSource(0, 0, SANDBOX));
    }
  }

  /** Do that for every cell, once the kernel has said that it is the user's own. */
  confineAll() {
    if (this.byKernel === false) {
      for (const cell of this.cells.all) {
        this.confine(cell);
      }
    }
  }

  /** Leave one first line in a cell that was merged of several.
   * @param {Lab.Cell} cell */
  mend(cell) {
    const source = cell.sharedModel.getSource();
    const mended = withOneSandbox(source);
    if (isAgents(cell) && mended !== source) {
      this.cells.undoably(() => cell.sharedModel.setSource(mended));
    }
  }
}
