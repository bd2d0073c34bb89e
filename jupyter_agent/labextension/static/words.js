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

/** Say how far a run is, in parts that each stay on one line.
 * @param {Lab.Facts} facts */
export function numbers({ step, tokens, estimated, seconds }) {
  const parts = [];
  if (step) {
    parts.push(`step ${step}`);
  }
  if (tokens) {
    parts.push(`${estimated ? '~' : ''}${tokens.toLocaleString('en')} tokens`);
  }
  if (seconds) {
    parts.push(`${Math.floor(seconds)} s`);
  }
  return parts;
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
    text: `${folded ? '▸' : '▾'} ${cells} cell${cells === 1 ? '' : 's'}`,
    title: folded ? "Show the agent's cells" : "Fold the agent's cells away"
  };
}
