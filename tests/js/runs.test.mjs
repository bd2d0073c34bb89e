/* What a page has been told of runs, what a browser remembers of them, and which page writes. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { isWriter } from '../../jupyter_agent/labextension/static/pages.js';
import {
  bars,
  hasJustEnded,
  isGoing,
  isSilent,
  isWorking,
  known,
  learn,
  recall,
  remember,
  withFold
} from '../../jupyter_agent/labextension/static/runs.js';

/** The storage of a browser, of which node 20 has none. */
class Storage {
  items = new Map();
  getItem(key) {
    return this.items.get(key) ?? null;
  }
  setItem(key, value) {
    this.items.set(key, value);
  }
}

/** Do something with what a browser has stored. */
function withStorage(storage, use) {
  Object.defineProperty(globalThis, 'localStorage', { value: storage, configurable: true });
  try {
    return use();
  } finally {
    delete globalThis.localStorage;
  }
}

test('a run works from its start to its end', () => {
  assert.equal(isWorking('a'), false);
  learn({ run: 'a', state: 'starting' });
  assert.equal(isWorking('a'), true);
  learn({ run: 'a', state: 'working' });
  assert.equal(isWorking('a'), true);
  assert.equal(hasJustEnded('a'), false);
  learn({ run: 'a', state: 'done' });
  assert.equal(isWorking('a'), false);
  assert.equal(hasJustEnded('a'), true);
});

test('a run that had ended before this page came has not just ended', () => {
  learn({ run: 'b', state: 'done' });
  assert.equal(hasJustEnded('b'), false);
});

test('a kernel is silent that has given no sign for two seconds', () => {
  learn({ run: 'c', state: 'working' });
  assert.equal(isSilent('c'), false);
  known.get('c').heard -= 2000;
  assert.equal(isSilent('c'), true);
  learn({ run: 'c', state: 'working' });
  assert.equal(isSilent('c'), false);
});

test('a wait is counted from when it was first told', () => {
  learn({ run: 'd', state: 'working', waiting: 'busy', wait: 9 });
  known.get('d').told -= 1000;
  const { told } = known.get('d');
  learn({ run: 'd', state: 'working', waiting: 'busy', wait: 9 });
  assert.equal(known.get('d').told, told);
  learn({ run: 'd', state: 'working', waiting: 'starting', wait: 9 });
  assert.ok(known.get('d').told > told);
});

test('the seconds of a run go on from those that the kernel told', () => {
  const before = performance.now();
  learn({ run: 'e', state: 'working', seconds: 30 });
  assert.ok(known.get('e').since >= before - 30_000);
  assert.ok(known.get('e').since <= performance.now() - 30_000);
});

test('what is known of a run is drawn, and the count of cells stays', () => {
  let drawn = 0;
  const bar = { draw: () => drawn++ };
  bars.add(bar);
  learn({ run: 'f', state: 'working' });
  known.get('f').there = 4;
  learn({ run: 'f', state: 'done' });
  bars.delete(bar);
  learn({ run: 'f', state: 'done' });
  assert.equal(drawn, 2);
  assert.equal(known.get('f').there, 4);
});

test('whether cells are folded only the page knows', () => {
  assert.equal(withFold({ run: 'g', state: 'done', folded: true }).folded, false);
  learn({ run: 'g', state: 'done', folded: true });
  assert.equal(withFold({ run: 'g', state: 'done', folded: false }).folded, true);
});

test('only a run that starts or works goes on', () => {
  const states = ['starting', 'working', 'done', 'stopped', 'failed', 'unstarted', 'lost', 'recorded', ''];
  assert.deepEqual(states.filter(isGoing), ['starting', 'working']);
});

test('a browser remembers which runs it asked of a kernel', () => {
  withStorage(new Storage(), () => {
    remember('k1', 'r1', 'a');
    remember('k2', 'r2', 'b');
    remember('k1', 'r3', 'a');
    remember('k1', 'r1', 'a'); // again: it is the latest now
    assert.deepEqual(recall('k1'), [['r3', 'a'], ['r1', 'a']]);
    assert.deepEqual(recall('k3'), []);
  });
});

test('a browser remembers fifty runs', () => {
  withStorage(new Storage(), () => {
    for (let i = 0; i < 60; i++) {
      remember('k', `r${i}`, 'a');
    }
    const runs = recall('k');
    assert.equal(runs.length, 50);
    assert.deepEqual(runs.at(-1), ['r59', 'a']);
  });
});

test('a storage that is forbidden or spoilt is empty', () => {
  const forbidden = () => {
    throw new Error('forbidden');
  };
  withStorage({ getItem: forbidden, setItem: forbidden }, () => {
    remember('k', 'r', 'a');
    assert.deepEqual(recall('k'), []);
  });
  withStorage({ getItem: () => '{half' }, () => assert.deepEqual(recall('k'), []));
  assert.deepEqual(recall('k'), []); // there is none
});

test('the page that asked for a run writes it while it is there, and then the first', () => {
  const pages = new Map([['ann', 7], ['bob', 3]]);
  const writers = session => [3, 7].filter(page => isWriter(page, session, pages));
  assert.deepEqual(writers('ann'), [7]);
  assert.deepEqual(writers('bob'), [3]);
  assert.deepEqual(writers('gone'), [3]);
});

test('a page that knows of no other writes', () => {
  assert.equal(isWriter(5, 'ann', new Map()), true);
});
