// @ts-check
/* Keep the agent's cells as the user's own, and put a cell that the kernel offers below a run. */

import { ask } from './kernel.js';
import { KEY } from './messages.js';
import { noteOf, RAISES, SANDBOX } from './notes.js';
import { isWorking, known, problems, redraw, said } from './runs.js';

/** @import { NotebookCells } from './cells.js' */

/** What a cell begins with whose command may change cells of the page. */
const COMMAND = /^\s*(%agent\s+(keep|fix)\b|%%agent\b[^\n]*\s--background\b)/;

export class Keeper {
  /** @param {NotebookCells} cells */
  constructor(cells) {
    this.cells = cells;
  }

  /** Tell the kernel, with a cell that is to run, that this page can change cells.
   * @param {Lab.Cell} cell
   * @param {boolean} on */
  announce(cell, on) {
    if (COMMAND.test(cell.sharedModel.getSource())) {
      const { page: _, ...note } = noteOf(cell) ?? /** @type {Lab.Note} */ ({ id: cell.id });
      const bare = !on && Object.keys(note).length === 1;
      this.cells.silently(() =>
        bare ? cell.deleteMetadata(KEY) : cell.setMetadata(KEY, on ? { ...note, page: true } : note)
      );
    }
  }

  /** Make the cells of a run the user's own, which is one undo.
   * @param {Lab.Kernel | null} kernel
   * @param {Lab.Run} run */
  async keep(kernel, run) {
    if (isWorking(run.id)) {
      return;
    }
    const sources = this.cells.of(run).filter(cell => cell.type === 'code').map(sourceOf);
    const reply = await ask(kernel, { op: 'keep', run: run.id, cells: sources });
    if (this.cells.closed) {
      return;
    }
    if (reply?.status !== 'ok') {
      problems.set(run.id, 'Cannot keep the cells: the kernel does not answer');
      redraw();
      return;
    }
    this.cells.undoably(() => {
      for (const cell of this.cells.of(run)) {
        this.release(cell);
        run.kept.add(cell.id);
      }
    });
    problems.delete(run.id);
    said.set(run.id, String(reply.said).slice(0, 1000));
    redraw();
  }

  /** @param {Lab.Cell} cell */
  release(cell) {
    if (sourceOf(cell) !== cell.sharedModel.getSource()) {
      cell.sharedModel.updateSource(0, SANDBOX.length, '');
    }
    const found = cell.getMetadata('tags');
    const tags = Array.isArray(found) ? found : [];
    const own = tags.filter(tag => tag !== RAISES); // an error of the user's stops Run All
    if (own.length) {
      cell.setMetadata('tags', own);
    } else if (tags.length) {
      cell.deleteMetadata('tags');
    }
    cell.deleteMetadata(KEY);
  }

  /** Whether a cell of a run was kept: it is there without our note, or was so when it was deleted.
   * An undo makes it the agent's again.
   * @param {Lab.Run} run
   * @param {string} id
   * @param {Lab.Cell | undefined} cell */
  isKept(run, id, cell) {
    if (cell && noteOf(cell)) {
      run.kept.delete(id);
    } else if (cell) {
      run.kept.add(id);
    }
    return run.kept.has(id);
  }

  /** Count the code cells of a run that could be kept; with any there nothing was kept, or an undo
   * has brought it back.
   * @param {Lab.Run} run */
  countCode(run) {
    const count = this.cells.of(run).filter(cell => cell.type === 'code').length;
    const facts = known.get(run.id);
    if (count && said.has(run.id)) {
      said.delete(run.id);
      redraw();
    }
    if (facts && facts.code !== count) {
      facts.code = count;
      redraw();
    }
  }

  /** Put code that the kernel offers into a new cell below a run. It does not run.
   * @param {Lab.Run} run
   * @param {string} source */
  offer(run, source) {
    const last = this.cells.latest(run);
    if (last && source) {
      const cell = { cell_type: 'code', source, metadata: { trusted: false }, outputs: [], execution_count: null };
      const at = this.cells.indexOf(last) + 1;
      this.cells.undoably(() => this.cells.context.model.sharedModel.insertCells(at, [cell]));
    }
  }
}

/** The code of a cell, without the line that keeps it in the sandbox.
 * @param {Lab.Cell} cell */
function sourceOf(cell) {
  const source = cell.sharedModel.getSource();
  return cell.type === 'code' && source.startsWith(SANDBOX) ? source.slice(SANDBOX.length) : source;
}
