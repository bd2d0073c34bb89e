import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Keeper } from '../../jupyter_agent/labextension/static/keep.js';
import { KEY } from '../../jupyter_agent/labextension/static/messages.js';

const agents = { id: 'a', getMetadata: key => (key === KEY ? { id: 'a', run: 'r' } : undefined) };
const plain = { id: 'a', getMetadata: () => undefined };

test('a cell of a run without our note is the user\'s, also once it is deleted, until an undo', () => {
  const keeper = new Keeper(/** @type {any} */ ({}));
  const run = /** @type {any} */ ({ kept: new Set() });
  assert.equal(keeper.isKept(run, 'a', agents), false);
  assert.equal(keeper.isKept(run, 'a', undefined), false); // the agent's, and deleted
  assert.equal(keeper.isKept(run, 'a', plain), true);
  assert.equal(keeper.isKept(run, 'a', undefined), true);
  assert.equal(keeper.isKept(run, 'a', agents), false);
  assert.equal(keeper.isKept(run, 'a', undefined), false);
});

test('a kept cell has neither our note, our first line nor our tag', () => {
  const metadata = { [KEY]: { id: 'a', run: 'r' }, tags: ['raises-exception', 'mine'] };
  let source = '%%sandbox\n1 / 0';
  const cell = /** @type {any} */ ({
    id: 'a',
    type: 'code',
    sharedModel: {
      getSource: () => source,
      updateSource: (from, to, text) => { source = source.slice(0, from) + text + source.slice(to); }
    },
    getMetadata: key => metadata[key],
    setMetadata: (key, value) => { metadata[key] = value; },
    deleteMetadata: key => { delete metadata[key]; }
  });
  const keeper = new Keeper(/** @type {any} */ ({}));
  keeper.release(cell);
  assert.equal(source, '1 / 0');
  assert.deepEqual(metadata, { tags: ['mine'] });
  metadata.tags = ['raises-exception'];
  keeper.release(cell);
  assert.deepEqual(metadata, {});
});
