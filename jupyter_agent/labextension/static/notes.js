// @ts-check
/* Read the notes on a cell, which are in its metadata. Nothing here changes a document. Notes come
 * from files, which may be anybody's. */

import { KEY } from './messages.js';

/** The first line of the agent's code cells in the user's own kernel. */
export const SANDBOX = '%%sandbox\n';
/** The tag of a cell whose error stops nothing. */
export const RAISES = 'raises-exception';
const AGENT = /^(%%agent|%agent\s+fix\b)/; // what a cell begins with that asks the agent
const WRITTEN = new Set(['code', 'prose']); // roles of cells that the model wrote, in a saved run

/** Sum up a source: FNV-1a over its UTF-16 code units, as the kernel does.
 * @param {string} text */
export function checksum(text) {
  let value = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) {
    value = Math.imul(value ^ text.charCodeAt(i), 0x01000193);
  }
  return (value >>> 0).toString(16);
}

/** Read what we noted on a cell. A copy of the cell carries the note of another.
 * @param {Lab.Cell | undefined} cell
 * @returns {Lab.Note | undefined} */
export function noteOf(cell) {
  const note = cell?.getMetadata(KEY);
  return note?.id === cell?.id ? note : undefined;
}

/** Whether a cell still says what the agent wrote.
 * @param {Lab.Cell} cell
 * @param {Lab.Note} note */
export function isUntouched(cell, note) {
  return checksum(cell.sharedModel.getSource()) === note.checksum;
}

/** Whether a cell says what the kernel knows of it.
 * @param {Lab.Run} run
 * @param {Lab.Cell} cell */
export function isHeld(run, cell) {
  return run.held.get(cell.id) === cell.sharedModel.getSource();
}

/** Whether a cell asks the agent.
 * @param {Lab.Cell} cell */
export function asksAgent(cell) {
  return AGENT.test(cell.sharedModel.getSource());
}

/** Whether a cell is the agent's, or made of one: a half, a copy, one that the user has edited; also
 * of a run that was saved as a notebook of its own, where cells have roles.
 * @param {Lab.Cell | undefined} cell */
export function isAgents(cell) {
  const note = cell?.getMetadata(KEY);
  return typeof note?.checksum === 'string' || WRITTEN.has(note?.role ?? '');
}

/** Whether a cell lacks the line that keeps its code in the sandbox, and needs it: any cell of the
 * agent's or of a saved run, but its task.
 * @param {Lab.Cell} cell */
export function lacksSandbox(cell) {
  const role = cell.getMetadata(KEY)?.role;
  const belongs = isAgents(cell) || (role !== undefined && role !== 'task');
  const source = cell.sharedModel.getSource();
  const begins = `${source}\n`.startsWith(SANDBOX);
  return cell.type === 'code' && belongs && source.trim() !== '' && !begins;
}

/** Leave one first line in the source of a cell that was merged of several.
 * @param {string} source */
export function withOneSandbox(source) {
  return source.startsWith(SANDBOX) ? source.replaceAll(`\n\n${SANDBOX}`, '\n\n') : source;
}

/** Where a step goes: below the nearest earlier one that is still there, or the %%agent cell.
 * @param {Lab.Cell[]} cells
 * @param {{run: string, anchor: string, index: number}} step
 * @returns {number} The index for it; 0 where there is no %%agent cell any more. */
export function placeFor(cells, { run, anchor, index }) {
  let best = cells.findIndex(cell => cell.id === anchor);
  let nearest = 0;
  if (best >= 0) {
    cells.forEach((cell, i) => {
      const note = noteOf(cell);
      const before = note?.run === run ? (note.index ?? index) : index;
      if (before < index && before >= nearest) {
        nearest = before;
        best = i;
      }
    });
  }
  return best + 1;
}

/** The id of the empty cell that keeps the place of a run's first.
 * @param {string} run */
export const placeholderOf = run => `${run}-0`;

/** Make the data of a cell of a run.
 * @param {string} run
 * @param {Lab.CellState} state */
export function cellData(run, state) {
  const source = state.first_line + state.source;
  const { id, index, type, step, thought } = state;
  const told = { ...(step && { step }), ...(thought && { thought }) };
  const metadata = { [KEY]: { id, run, index, checksum: checksum(source), ...told } };
  const cell = { id, cell_type: type, source, metadata };
  return type === 'code' ? { ...cell, execution_count: state.count ?? null, outputs: [] } : cell;
}
