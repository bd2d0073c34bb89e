/* What messages about runs say, and what becomes of those that were gathered. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DISPLAYS, factsOf, isInert, outputOf, sortMessages } from '../../jupyter_agent/labextension/static/messages.js';

const NOTHING = { last: 0, isThere: () => false };

/** A message that writes a cell. */
function cell(index, source, more = {}) {
  const tag = { op: 'cell', id: `r-${index}`, index, type: 'code', state: 'writing', first_line: '', ...more };
  return [tag, { data: { 'text/plain': source }, metadata: {} }];
}

/** A message that adds to a stream, or replaces an output. */
function stream(index, at, text, name = 'stdout') {
  return [{ op: 'output', id: `r-${index}`, index: at }, { name, text }];
}

function display(index, at, data, more = {}) {
  return [{ op: 'output', id: `r-${index}`, index: at, ...more }, { data, metadata: {} }];
}

test('the facts of a header are read as they are', () => {
  const header = { run: 'r', state: 'working', doing: 'thinking', step: 3, tokens: 12, estimated: true, wait: 1.5 };
  const facts = factsOf(header);
  for (const [name, value] of Object.entries(header)) {
    assert.equal(facts[name], value);
  }
});

test('facts that are read again stay the same', () => {
  for (const cost of [null, 0, 0.5]) {
    const facts = factsOf({ run: 'r', tokens: 12, cost, unpriced: true });
    assert.deepEqual(factsOf(facts), facts);
  }
});

test('a header may be anything', () => {
  const empty = factsOf(null);
  assert.deepEqual(new Set(Object.values(empty)), new Set(['', 0, false]));
  for (const hostile of [undefined, 7, 'text', [], { run: {}, state: 1, step: 'x', estimated: 'yes', folded: 1 }]) {
    assert.deepEqual(factsOf(hostile), empty);
  }
  for (const number of [Number.NaN, Number.POSITIVE_INFINITY, '3', null, [3]]) {
    assert.equal(factsOf({ tokens: number }).tokens, 0);
  }
});

test('a text in a header is cut, and what nobody knows is left out', () => {
  const facts = factsOf({ why: 'x'.repeat(5000), html: '<script>' });
  assert.equal(facts.why.length, 200);
  assert.equal('html' in facts, false);
});

test('text, pictures of pixels and JSON need no sanitizer', () => {
  for (const type of ['text/plain', 'image/png', 'image/jpeg', 'image/gif', 'application/json']) {
    assert.equal(isInert({ [type]: '' }), true, type);
  }
  assert.equal(isInert({}), true);
  assert.equal(isInert({ 'application/vnd.jupyter-agent.run+json': {} }), true);
});

test('whatever else a bundle holds needs one', () => {
  for (const type of ['text/html', 'text/markdown', 'text/latex', 'image/svg+xml', 'application/javascript']) {
    assert.equal(isInert({ 'text/plain': '', [type]: '' }), false, type);
  }
  for (const type of ['image/png+xml', 'text/plain; charset=x', ' text/plain', 'application/vnd.plotly.v1+json']) {
    assert.equal(isInert({ [type]: '' }), false, type);
  }
});

test('the messages with mime bundles are known by their type', () => {
  for (const type of ['display_data', 'update_display_data', 'execute_result']) {
    assert.match(type, DISPLAYS);
  }
  for (const type of ['stream', 'error', 'display_data2', 'clear_output']) {
    assert.doesNotMatch(type, DISPLAYS);
  }
});

test('an output is what its message says', () => {
  const data = { 'text/plain': '1' };
  const error = { output_type: 'error', ename: 'E', evalue: '', traceback: [] };
  assert.deepEqual(outputOf(...stream(1, 0, 'hi', 'stderr')), { output_type: 'stream', name: 'stderr', text: 'hi' });
  assert.deepEqual(outputOf(...display(1, 0, data)), { output_type: 'display_data', data, metadata: {} });
  assert.deepEqual(outputOf(...display(1, 0, data, { count: 2 })), {
    output_type: 'execute_result', data, metadata: {}, execution_count: 2
  });
  assert.equal(outputOf({ op: 'output', error }, { name: 'stderr', text: 'E' }), error);
});

test('a new cell holds all that was gathered of it', () => {
  const queue = [
    cell(1, 'a = '),
    cell(1, 'a = 1', { state: 'running' }),
    stream(1, 0, 'one\n'),
    stream(1, 0, 'two\n'),
    display(1, 1, { 'text/plain': '3' }),
    cell(1, 'a = 1', { state: 'done', count: 4 })
  ];
  const { cells, others } = sortMessages(queue, NOTHING);
  assert.deepEqual(others, []);
  assert.equal(cells.length, 1);
  assert.equal(cells[0].source, 'a = 1');
  assert.equal(cells[0].state, 'done');
  assert.equal(cells[0].count, 4);
  assert.deepEqual(cells[0].outputs, [
    { output_type: 'stream', name: 'stdout', text: 'one\ntwo\n' },
    { output_type: 'display_data', data: { 'text/plain': '3' }, metadata: {} }
  ]);
});

test('what a new cell has cleared is gone', () => {
  const queue = [cell(1, 'x'), stream(1, 0, 'old'), [{ op: 'clear', id: 'r-1' }, {}], stream(1, 0, 'new')];
  const { cells } = sortMessages(queue, NOTHING);
  assert.deepEqual(cells[0].outputs.map(output => output.text), ['new']);
});

test('an output that is not a stream is replaced', () => {
  const queue = [cell(1, 'x'), display(1, 0, { 'text/plain': '1 %' }), display(1, 0, { 'text/plain': '2 %' })];
  const { cells } = sortMessages(queue, NOTHING);
  assert.deepEqual(cells[0].outputs.map(output => output.data['text/plain']), ['2 %']);
});

test('new cells come together and in their order', () => {
  const { cells } = sortMessages([cell(1, 'a'), cell(2, 'b'), cell(1, 'a2'), cell(3, 'c')], NOTHING);
  assert.deepEqual(cells.map(each => each.id), ['r-1', 'r-2', 'r-3']);
});

test('a new cell that the model took back never comes to be', () => {
  const queue = [cell(1, 'half'), cell(1, '', { state: 'done' }), cell(2, 'whole')];
  assert.deepEqual(sortMessages(queue, NOTHING).cells.map(each => each.id), ['r-2']);
});

test('a new cell that is still empty does', () => {
  assert.equal(sortMessages([cell(1, '')], NOTHING).cells.length, 1);
});

test('a cell that is there is written once, as it was last', () => {
  const queue = [cell(1, 'a'), stream(1, 0, 'out'), cell(1, 'ab'), cell(1, 'abc')];
  const { cells, others } = sortMessages(queue, { last: 1, isThere: id => id === 'r-1' });
  assert.deepEqual(cells, []);
  assert.deepEqual(others, [queue[1], queue[3]]);
});

test('a step that the user has deleted does not come back', () => {
  const queue = [cell(2, 'deleted'), cell(3, 'next')];
  const { cells, others } = sortMessages(queue, { last: 2, isThere: () => false });
  assert.deepEqual(cells.map(each => each.id), ['r-3']);
  assert.deepEqual(others, [queue[0]]); // it writes no cell: there is none
});

test('the header is nothing of a cell', () => {
  const header = [{ op: 'run', state: 'working' }, { data: {}, metadata: {} }];
  assert.deepEqual(sortMessages([header, cell(1, 'a')], NOTHING).others, [header]);
});
