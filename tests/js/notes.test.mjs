/* What is noted on cells, and where the next one goes. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  asksAgent,
  cellData,
  checksum,
  isAgents,
  isHeld,
  isUntouched,
  lacksSandbox,
  noteOf,
  placeFor,
  withOneSandbox
} from '../../jupyter_agent/labextension/static/notes.js';

/** A cell, as far as a note is read from it. */
function cell(id, { source = '', type = 'code', note } = {}) {
  return { id, type, getMetadata: key => (key === 'jupyter_agent' ? note : undefined), sharedModel: { getSource: () => source } };
}

/** The cells of a run in the order in which they stand, by their steps; 0 is the %%agent cell. */
function notebook(...steps) {
  return steps.map(step => {
    const id = step === 0 ? 'anchor' : `r-${step}`;
    const note = typeof step === 'number' ? { id, run: 'r', index: step || undefined } : undefined;
    return cell(typeof step === 'number' ? id : step, { note });
  });
}

test('a checksum is that of the kernel', () => {
  // tests/test_views.py has the same figures
  assert.equal(checksum(''), '811c9dc5');
  assert.equal(checksum('a'), 'e40c292c');
  assert.equal(checksum('🐧'), 'b22e775d');
});

test('a note is that of the cell that it names', () => {
  const note = { id: 'x', run: 'r', index: 1 };
  assert.equal(noteOf(cell('x', { note })), note);
  assert.equal(noteOf(cell('copy', { note })), undefined);
  assert.equal(noteOf(cell('x')), undefined);
  assert.equal(noteOf(undefined), undefined);
});

test('a cell is untouched while it says what the agent wrote', () => {
  const note = { id: 'x', run: 'r', checksum: checksum('a = 1') };
  assert.equal(isUntouched(cell('x', { source: 'a = 1' }), note), true);
  assert.equal(isUntouched(cell('x', { source: 'a = 2' }), note), false);
});

test('a cell is held while it says what the kernel knows', () => {
  const run = { held: new Map([['x', 'a = 1'], ['gone', null]]) };
  assert.equal(isHeld(run, cell('x', { source: 'a = 1' })), true);
  assert.equal(isHeld(run, cell('x', { source: 'a = 2' })), false);
  assert.equal(isHeld(run, cell('other', { source: '' })), false);
});

test('a %%agent cell begins with its magic', () => {
  assert.equal(asksAgent(cell('x', { source: '%%agent\nWhy?' })), true);
  assert.equal(asksAgent(cell('x', { source: '# %%agent' })), false);
});

test('a cell with text of the agent is the agent’s, a copy too', () => {
  for (const note of [{ id: 'x', checksum: '1' }, { id: 'another', checksum: '1' }, { role: 'code' }, { role: 'prose' }]) {
    assert.equal(isAgents(cell('x', { note })), true, JSON.stringify(note));
  }
  for (const note of [undefined, {}, { id: 'x', run: 'r' }, { role: 'task' }, { checksum: 7 }]) {
    assert.equal(isAgents(cell('x', { note })), false, JSON.stringify(note));
  }
  assert.equal(isAgents(undefined), false);
});

test('code of the agent without the line of the sandbox lacks it', () => {
  const note = { id: 'x', checksum: '1' };
  for (const source of ['print(1)', ' %%sandbox\nprint(1)', '%%sandboxed\nprint(1)', '%%sandbox print(1)']) {
    assert.equal(lacksSandbox(cell('x', { note, source })), true, source);
  }
  for (const source of ['%%sandbox\nprint(1)', '%%sandbox', '', ' \n']) {
    assert.equal(lacksSandbox(cell('x', { note, source })), false, source);
  }
});

test('of a saved run all code but the task lacks it', () => {
  const lacks = role => lacksSandbox(cell('x', { note: { role }, source: 'print(1)' }));
  assert.deepEqual(['code', 'setup', 'anything', 'task'].map(lacks), [true, true, true, false]);
});

test('no code of the user’s and no Markdown lacks it', () => {
  assert.equal(lacksSandbox(cell('x', { source: 'print(1)' })), false);
  assert.equal(lacksSandbox(cell('x', { note: { id: 'x', checksum: '1' }, type: 'markdown', source: 'text' })), false);
});

test('a merged cell keeps the first of its first lines', () => {
  assert.equal(withOneSandbox('%%sandbox\na\n\n%%sandbox\nb\n\n%%sandbox\nc'), '%%sandbox\na\n\nb\n\nc');
  for (const source of ['%%sandbox\na', 'a\n\n%%sandbox\nb', "%%sandbox\ns = '''\n%%sandbox\n'''"]) {
    assert.equal(withOneSandbox(source), source);
  }
});

test('a step goes below the nearest earlier one that is there', () => {
  const place = (cells, index) => placeFor(cells, { run: 'r', anchor: 'anchor', index });
  assert.equal(place(notebook('mine', 0, 'yours'), 1), 2);
  assert.equal(place(notebook(0, 1, 2, 'yours'), 3), 3);
  assert.equal(place(notebook(0, 1, 'yours'), 3), 2); // 2 was deleted
  assert.equal(place(notebook(0, 2, 1), 3), 2); // 1 was moved down: it stays below 2
  assert.equal(place(notebook(1, 0, 'yours'), 2), 1); // 1 was moved above the %%agent cell
  assert.equal(place(notebook(0, 1, 3), 2), 2); // one that comes late
});

test('without its %%agent cell a run has no place', () => {
  assert.equal(placeFor(notebook(1, 2), { run: 'r', anchor: 'anchor', index: 3 }), 0);
});

test('cells of another run and copies keep no place', () => {
  const cells = [...notebook(0, 1), cell('copy', { note: { id: 'r-1', run: 'r', index: 1 } })];
  cells.push(cell('other', { note: { id: 'other', run: 'other', index: 1 } }));
  assert.equal(placeFor(cells, { run: 'r', anchor: 'anchor', index: 2 }), 2);
});

test('a cell of a run notes what the agent wrote', () => {
  const state = { id: 'r-1', index: 1, type: 'code', state: 'done', first_line: '%%sandbox\n', source: 'a', outputs: [] };
  const made = cellData('r', { ...state, count: 3 });
  assert.equal(made.source, '%%sandbox\na');
  assert.deepEqual(made.metadata.jupyter_agent, { id: 'r-1', run: 'r', index: 1, checksum: checksum('%%sandbox\na') });
  assert.equal(made.execution_count, 3);
  assert.equal(cellData('r', state).execution_count, null);
  assert.equal('outputs' in cellData('r', { ...state, type: 'markdown', first_line: '' }), false);
});
