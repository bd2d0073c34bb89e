// @ts-check
/* The text of a bar. Nothing here touches the page. */

const ENDED = /** @type {Record<string, string>} */ ({
  done: 'Done',
  stopped: 'Stopped',
  failed: 'Failed',
  unstarted: 'Not started',
  lost: 'Lost: its kernel is gone',
  recorded: 'Done, shown as recorded: no model was asked',
  claimed: 'Shown as in the file, not done here: no model was asked'
});
const DOING = /** @type {Record<string, string>} */ ({ thinking: 'Thinking', writing: 'Writing', running: 'Running' });

/** Say how a run ended, and why.
 * @param {Lab.Facts} facts */
function ending({ state, why, model }) {
  const ended = Object.hasOwn(ENDED, state) ? ENDED[state] : 'Not finished';
  const prefix = `${model}: `; // the bar says it at its end
  return why ? `${ended}: ${why.startsWith(prefix) ? why.slice(prefix.length) : why}` : ended;
}

/** Say what a run does, or how it ended.
 * @param {Lab.Facts} facts
 * @param {object} how
 * @param {boolean} how.known Whether a kernel has told this page of the run.
 * @param {boolean} how.working Whether it has said that the run goes on.
 * @param {boolean} how.silent Whether it has given no sign for a while.
 * @param {string} [how.problem] Why a button could not do what it is for. */
export function status(facts, { known, working, silent, problem }) {
  if (problem) {
    return problem;
  }
  if (!known) {
    return 'From the file, not of this kernel:';
  }
  if (!working) {
    return ending(facts);
  }
  if (silent) {
    return 'The kernel does not answer…';
  }
  if (facts.doing === 'asking') {
    return 'Waiting for you';
  }
  const doing = facts.doing ?? '';
  return `${facts.waiting || (Object.hasOwn(DOING, doing) ? DOING[doing] : 'Working')}…`;
}

/** Say how far a run is and what it has used, in parts that each stay on one line. A narrow bar
 * leaves out some, by their kind.
 * @param {Lab.Facts} facts
 * @returns {Array<{kind: string, text: string}>} */
export function numbers(facts) {
  const { step, tokens, seconds } = facts;
  const parts = [];
  if (step) {
    parts.push({ kind: 'step', text: `step ${step}` });
  }
  if (tokens) {
    parts.push({ kind: 'tokens', text: tokensOf(facts) });
  }
  if (facts.priced) {
    parts.push({ kind: 'cost', text: money(facts) });
  }
  if (seconds) {
    parts.push({ kind: 'seconds', text: `${Math.floor(seconds)} s` });
  }
  return parts;
}

/** @param {Lab.Facts} facts */
function tokensOf({ tokens, tokens_in, tokens_out, estimated }) {
  const about = estimated ? '~' : '';
  return tokens_in || tokens_out
    ? `${about}${short(tokens_in ?? 0)} tokens in, ${short(tokens_out ?? 0)} out`
    : `${about}${short(tokens ?? 0)} tokens`; // of a notebook of an earlier release
}

/** @param {number} count */
const short = count =>
  count < 100_000 ? count.toLocaleString('en') : `${Math.round(count / 1000).toLocaleString('en')}k`;

/** @param {Lab.Facts} facts */
function money({ cost = 0, unpriced }) {
  const least = unpriced ? 'at least ' : '';
  return cost > 0 && cost < 0.0001 ? `${least}< $0.0001` : `${least}$${cost.toFixed(cost < 1 ? 4 : 2)}`;
}

/** Say how much of its budget a run has used.
 * @param {Lab.Facts} facts
 * @returns {{share: number, text: string} | undefined} None if it has no budget. */
export function budget({ tokens = 0, limit = 0 }) {
  if (!limit) {
    return;
  }
  const [used, all] = [tokens, limit].map(count => count.toLocaleString('en'));
  return { share: Math.min(1, tokens / limit), text: `${used} of ${all} tokens of the budget` };
}

/** Name a model shortly: without the address of its server, or the folder of its file.
 * @param {string} model */
export function shortModel(model) {
  const [, host, named] = /^https?:\/\/([^/#]*)[^#]*(?:#(.*))?$/.exec(model) ?? [];
  const file = /^(local|scripted):.*[\\/]([^\\/]+)$/.exec(model);
  return file ? `${file[1]}:${file[2]}` : named || host || model;
}

/** Say how long a run still waits.
 * @param {number} wait Seconds, when that was told.
 * @param {number} passed Seconds since then. */
export function countdown(wait, passed) {
  return `in ${Math.max(0, Math.ceil(wait - passed))} s`;
}

/** Say what the button that folds cells holds, and what it does.
 * @param {number} cells
 * @param {boolean} folded */
export function folding(cells, folded) {
  return {
    icon: folded ? '▸' : '▾',
    words: `cell${cells === 1 ? '' : 's'}`,
    title: folded ? "Show the agent's cells" : "Fold the agent's cells away"
  };
}
