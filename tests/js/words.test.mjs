/* What a bar says. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { countdown, folding, numbers, status } from '../../jupyter_agent/labextension/static/words.js';

const WORKING = { known: true, working: true, silent: false };
const ENDED = { ...WORKING, working: false };

test('a run that works says what it does', () => {
  assert.equal(status({ state: 'working', doing: 'thinking' }, WORKING), 'Thinking…');
  assert.equal(status({ state: 'working', doing: 'writing' }, WORKING), 'Writing…');
  assert.equal(status({ state: 'working', doing: 'running' }, WORKING), 'Running…');
  for (const doing of [undefined, '', 'dancing', 'constructor', '__proto__']) {
    assert.equal(status({ state: 'working', doing }, WORKING), 'Working…');
  }
});

test('what a run waits for comes before what it does', () => {
  assert.equal(status({ doing: 'thinking', waiting: 'Asking again: busy' }, WORKING), 'Asking again: busy…');
});

test('a question to the user comes before that', () => {
  assert.equal(status({ waiting: 'Starting', doing: 'asking' }, WORKING), 'Waiting for you');
});

test('a kernel that gives no sign is said not to answer', () => {
  assert.equal(status({ doing: 'asking' }, { ...WORKING, silent: true }), 'The kernel does not answer…');
  assert.equal(status({ state: 'done' }, { ...ENDED, silent: true }), 'Done');
});

test('a run that has ended says how', () => {
  const says = state => status({ state }, ENDED);
  assert.deepEqual(['done', 'stopped', 'failed', 'unstarted', 'lost', 'recorded', 'claimed'].map(says), [
    'Done',
    'Stopped',
    'Failed',
    'Not started',
    'Lost: its kernel is gone',
    'Done, shown as recorded: no model was asked',
    'Shown as in the file, not done here: no model was asked'
  ]);
  for (const state of ['', 'dreaming', 'constructor', 'toString', '__proto__']) {
    assert.equal(says(state), 'Not finished');
  }
});

test('why a run has failed is said, and the model once', () => {
  assert.equal(status({ state: 'failed', why: 'no key', model: 'gpt' }, ENDED), 'Failed: no key');
  assert.equal(status({ state: 'failed', why: 'gpt: no key', model: 'gpt' }, ENDED), 'Failed: no key');
  assert.equal(status({ state: 'failed', why: 'gpt-2: no key', model: 'gpt' }, ENDED), 'Failed: gpt-2: no key');
});

test('a run that no kernel has told of is of the file, whatever the file says', () => {
  for (const state of ['done', 'working', 'recorded']) {
    assert.equal(status({ state, why: 'x' }, { ...ENDED, known: false }), 'From the file, not of this kernel:');
  }
});

test('what a button could not do is said before all else', () => {
  assert.equal(status({ state: 'done' }, { ...ENDED, known: false, problem: 'Cannot run' }), 'Cannot run');
});

test('the numbers of a run are those that there are', () => {
  assert.deepEqual(numbers({}), []);
  assert.deepEqual(numbers({ step: 0, tokens: 0, seconds: 0 }), []);
  assert.deepEqual(numbers({ step: 2, tokens: 1234567, seconds: 61.9 }), ['step 2', '1,234,567 tokens', '61 s']);
  assert.deepEqual(numbers({ tokens: 999, estimated: true }), ['~999 tokens']);
  assert.deepEqual(numbers({ seconds: 0.4 }), ['0 s']);
});

test('a countdown ends at 0', () => {
  assert.deepEqual([0, 0.1, 1, 8.9, 9, 100].map(passed => countdown(9, passed)), [
    'in 9 s', 'in 9 s', 'in 8 s', 'in 1 s', 'in 0 s', 'in 0 s'
  ]);
});

test('the button that folds counts the cells', () => {
  assert.deepEqual(folding(1, false), { text: '▾ 1 cell', title: "Fold the agent's cells away" });
  assert.deepEqual(folding(3, true), { text: '▸ 3 cells', title: "Show the agent's cells" });
});
