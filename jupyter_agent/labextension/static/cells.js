// @ts-check
/* The cells of one notebook: find them and change them. */

import { KEY, MIME } from './messages.js';
import { noteOf } from './notes.js';

export class NotebookCells {
  /** @param {Lab.Context} context */
  constructor(context) {
    this.context = context;
  }

  /** Whether the notebook is closed. */
  get closed() {
    return this.context.isDisposed;
  }

  get all() {
    return this.closed ? [] : [...this.context.model.cells];
  }

  /** @param {string} id */
  find(id) {
    return this.all.find(cell => cell.id === id);
  }

  /** @param {Lab.Cell} cell */
  indexOf(cell) {
    return this.all.indexOf(cell);
  }

  /** The cells of a run that are there, in the order of the notebook.
   * @param {Lab.Run} run */
  of(run) {
    return this.all.filter(cell => run.held.has(cell.id) && noteOf(cell)); // or it is the user's
  }

  /** The newest cell of a run that is there, or its %%agent cell.
   * @param {Lab.Run} run */
  latest(run) {
    const indexOf = /** @param {Lab.Cell} cell */ cell => noteOf(cell)?.index ?? 0;
    const cells = this.of(run).sort((a, b) => indexOf(a) - indexOf(b));
    return cells.at(-1) ?? this.find(run.anchor);
  }

  /** A code cell of a run, if it is still one.
   * @param {Lab.Run} run
   * @param {string} id */
  code(run, id) {
    const cell = /** @type {Lab.CodeCell | undefined} */ (run.held.has(id) ? this.find(id) : undefined);
    return cell?.outputs && noteOf(cell) ? cell : undefined;
  }

  /** Change the document outside the user's undo. Not for outputs: a cell's model keeps those
   * and the document in step.
   * @param {() => void} change */
  silently(change) {
    this.context.model.sharedModel.transact(change, false);
  }

  /** Change the document so that one undo takes it back, with what was done right before it.
   * @param {() => void} change */
  undoably(change) {
    this.context.model.sharedModel.transact(change);
  }

  /** Insert cells in one change, outside the user's undo.
   * @param {number} index
   * @param {object[]} cells */
  insert(index, cells) {
    this.silently(() => this.context.model.sharedModel.insertCells(index, cells));
  }

  /** Insert cells as the user does.
   * @param {number} index
   * @param {object[]} cells */
  insertUndoably(index, cells) {
    this.context.model.sharedModel.insertCells(index, cells);
  }

  /** Delete a cell outside the user's undo.
   * @param {number} index */
  delete(index) {
    this.silently(() => this.context.model.sharedModel.deleteCell(index));
  }

  /** Delete cells, which is one undo.
   * @param {Set<string>} ids */
  deleteUndoably(ids) {
    const shared = this.context.model.sharedModel;
    this.undoably(() => {
      for (let i = shared.cells.length - 1; i >= 0; i--) {
        if (ids.has(shared.cells[i].getId())) {
          shared.deleteCell(i);
        }
      }
    });
  }

  /** @param {Lab.Cell} cell
   * @param {Partial<Lab.Note>} facts */
  note(cell, facts) {
    const before = noteOf(cell);
    this.silently(() => cell.setMetadata(KEY, { ...before, ...facts, id: cell.id }));
  }
}

/** Where a cell's outputs hold a header; -1 if they do not.
 * @param {Lab.Cell} anchor */
function headerIndex(anchor) {
  const outputs = /** @type {Lab.CodeCell} */ (anchor).outputs;
  for (let i = 0; i < (outputs?.length ?? 0); i++) {
    if (outputs.get(i).data?.[MIME]) {
      return i;
    }
  }
  return -1;
}

/** The header that a cell's outputs hold.
 * @param {Lab.Cell} anchor
 * @returns {Lab.Bundle | undefined} */
export function headerOf(anchor) {
  const index = headerIndex(anchor);
  return index < 0 ? undefined : /** @type {Lab.CodeCell} */ (anchor).outputs.get(index).data;
}

/** Show a header, in the place of the one that is there.
 * @param {Lab.Cell} anchor
 * @param {Lab.Facts} facts
 * @param {string} text For who cannot draw it. */
export function showHeader(anchor, facts, text) {
  const outputs = /** @type {Lab.CodeCell} */ (anchor).outputs;
  if (!outputs) {
    return; // the user has made a Markdown cell of it
  }
  const data = { [MIME]: facts, 'text/plain': text };
  const output = { output_type: 'display_data', data, metadata: {} };
  const index = headerIndex(anchor);
  if (index < 0) {
    outputs.add(output);
  } else {
    outputs.set(index, output);
  }
}
