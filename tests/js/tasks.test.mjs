/* The %%agent cells that the toolbar and the palette write. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { about, errorText, fenced, mending } from '../../jupyter_agent/labextension/static/tasks.js';

test('no code ends the block that quotes it', () => {
  assert.equal(fenced('x = 1\n', 'python'), '```python\nx = 1\n```');
  assert.equal(fenced('s = """\n````\n"""', 'python'), '`````python\ns = """\n````\n"""\n`````');
});

test('a cell that the kernel can tell of is not quoted', () => {
  assert.equal(about('x = 1', { told: '-c 1' }), '%%agent -c 1\n');
});

test('another cell is quoted, below a line for the question', () => {
  assert.equal(about('%%sandbox\nx = 1', { told: '' }), '%%agent\n\n\n```python\nx = 1\n```');
});

test('an error that is not the last one is quoted with its cell', () => {
  const error = { output_type: 'error', ename: 'E', evalue: 'no', traceback: ['\x1b[31mE\x1b[0m', 'E: no'] };
  const task = mending('1/0', error, { context: true });
  assert.ok(task.startsWith('%%agent -c\nExplain this error'));
  assert.ok(task.endsWith('```python\n1/0\n```\n\n```text\nE\nE: no\n```'));
  assert.ok(mending('1/0', error, { context: false }).startsWith('%%agent\n'));
});

test('of a long error the end is quoted', () => {
  const text = errorText({ output_type: 'error', traceback: ['x'.repeat(9000), 'E: no'] });
  assert.ok(text.length < 4100);
  assert.ok(text.startsWith('[...]\n') && text.endsWith('\nE: no'));
  assert.equal(errorText({ output_type: 'error', ename: 'E', evalue: 'no', traceback: [] }), 'E: no');
});
