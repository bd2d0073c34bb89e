/* What a bar says. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { budget, countdown, folding, numbers, shortModel, status } from '../../jupyter_agent/labextension/static/words.js';

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

const texts = facts => numbers(facts).map(part => part.text);

test('the numbers of a run are those that there are', () => {
  assert.deepEqual(texts({}), []);
  assert.deepEqual(texts({ step: 0, tokens: 0, seconds: 0 }), []);
  assert.deepEqual(texts({ step: 2, tokens: 1234, tokens_in: 1200, tokens_out: 34, seconds: 61.9 }), [
    'step 2', '1,200 tokens in, 34 out', '61 s'
  ]);
  assert.deepEqual(texts({ tokens: 999, estimated: true }), ['~999 tokens']);
  assert.deepEqual(texts({ tokens: 1234567, tokens_in: 1234567 }), ['1,235k tokens in, 0 out']);
  assert.deepEqual(texts({ seconds: 0.4 }), ['0 s']);
});

test('money is named where anybody has named a price', () => {
  assert.deepEqual(texts({ cost: 3, priced: false }), []);
  assert.deepEqual(texts({ cost: 0, priced: true }), ['$0.0000']);
  assert.deepEqual(texts({ cost: 0.00001, priced: true }), ['< $0.0001']);
  assert.deepEqual(texts({ cost: 0.0123, priced: true, unpriced: true }), ['at least $0.0123']);
  assert.deepEqual(texts({ cost: 12.345, priced: true }), ['$12.35']);
});

test('a budget says how much of it is used', () => {
  assert.equal(budget({ tokens: 5 }), undefined);
  assert.deepEqual(budget({ tokens: 5000, limit: 20000 }), {
    share: 0.25,
    text: '5,000 of 20,000 tokens of the budget'
  });
  assert.equal(budget({ tokens: 9, limit: 3 }).share, 1);
});

test('a model is named without an address or a folder', () => {
  for (const [model, name] of [
    ['openai:gpt-5', 'openai:gpt-5'],
    ['hf:Qwen/Qwen3-Coder', 'hf:Qwen/Qwen3-Coder'],
    ['ollama:qwen3:8b', 'ollama:qwen3:8b'],
    ['http://127.0.0.1:8000/v1#qwen', 'qwen'],
    ['https://host.example/v1', 'host.example'],
    ['local:/home/ann/models/small.gguf', 'local:small.gguf'],
    ['local:C:\\models\\small.gguf', 'local:small.gguf'],
    ['scripted:runs/first.md', 'scripted:first.md'],
    ['', '']
  ]) {
    assert.equal(shortModel(model), name);
  }
});

test('a countdown ends at 0', () => {
  assert.deepEqual([0, 0.1, 1, 8.9, 9, 100].map(passed => countdown(9, passed)), [
    'in 9 s', 'in 9 s', 'in 8 s', 'in 1 s', 'in 0 s', 'in 0 s'
  ]);
});

test('the button that folds counts the cells', () => {
  assert.deepEqual(folding(1, false), { icon: '▾', words: 'cell', title: "Fold the agent's cells away" });
  assert.deepEqual(folding(3, true), { icon: '▸', words: 'cells', title: "Show the agent's cells" });
});
