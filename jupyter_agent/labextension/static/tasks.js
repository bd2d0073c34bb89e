// @ts-check
/* Write the %%agent cells that the toolbar and the palette make. Nothing here touches the page. */

import { SANDBOX } from './notes.js';

const MAX_ERROR = 4000; // characters of an error, from its end
// biome-ignore lint/suspicious/noControlCharactersInRegex: the colours of a terminal
const COLOURS = /\x1b\[[0-9;]*m/g;

/** Put text into a block that nothing in it can end.
 * @param {string} text
 * @param {string} language */
export function fenced(text, language) {
  const longest = Math.max(2, ...(text.match(/`+/g) ?? []).map(run => run.length));
  const fence = '`'.repeat(longest + 1);
  return `${fence}${language}\n${text.trimEnd()}\n${fence}`;
}

/** Write an error as a terminal would, without colours; of a long one the end.
 * @param {Lab.OutputData} error */
export function errorText({ ename, evalue, traceback }) {
  const text = traceback?.length ? traceback.join('\n') : `${ename}: ${evalue}`;
  const plain = text.replace(COLOURS, '');
  return plain.length > MAX_ERROR ? `[...]\n${plain.slice(-MAX_ERROR)}` : plain;
}

/** Write the cell that asks about another one, with a free line for the question.
 * @param {string} source
 * @param {{told: string}} how The flag by which the kernel tells the agent of that cell; empty where
 *   it does not. */
export function about(source, { told }) {
  return told ? `%%agent ${told}\n` : `%%agent\n\n\n${fenced(withoutSandbox(source), 'python')}`;
}

/** Write the cell that has an error explained which is not the kernel's last.
 * @param {string} source
 * @param {Lab.OutputData} error
 * @param {{context: boolean}} how Whether the kernel can tell of the user's cells and variables. */
export function mending(source, error, { context }) {
  const head = `%%agent${context ? ' -c' : ''}\nExplain this error, and write the mended cell.`;
  return [head, fenced(source, 'python'), fenced(errorText(error), 'text')].join('\n\n');
}

/** @param {string} source */
function withoutSandbox(source) {
  return source.startsWith(SANDBOX) ? source.slice(SANDBOX.length) : source;
}
