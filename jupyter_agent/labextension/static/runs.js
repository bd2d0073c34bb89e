// @ts-check
/* The state of runs: what the kernel has told this page, and what this browser remembers. */

import { KEY, usedOf } from './messages.js';
import { notifyOfEnd } from './notifications.js';
import { status } from './words.js';

/** Milliseconds in which no other button answers where Stop was. */
export const STOP_STAYS_MS = 1000;
const SILENT_MS = 1800; // without a sign of a kernel that gives several in that time
const GOING = new Set(['starting', 'working']); // states of a run that has not ended
const MAX_REMEMBERED = 50; // runs that a browser remembers

/** What kernels have told this page of runs, and when: all else that a bar says is from a file.
 * @type {Map<string, Lab.KnownFacts>} */
export const known = new Map();

/** Why buttons could not do what they are for, by the run of their bar.
 * @type {Map<string, string>} */
export const problems = new Map();

/** What there is to say of runs whose cells became the user's own.
 * @type {Map<string, string>} */
export const said = new Map();

/** Bars that are on the page: they draw what is known.
 * @type {Set<Lab.Bar>} */
export const bars = new Set();

/** Whether a run in this state has not ended.
 * @param {string} state */
export const isGoing = state => GOING.has(state);

/** Whether a kernel has said that a run goes on.
 * @param {string} run */
export const isWorking = run => isGoing(known.get(run)?.state ?? '');

/** Whether a run has just ended.
 * @param {string} run */
export const hasJustEnded = run =>
  performance.now() - (known.get(run)?.ended ?? Number.NEGATIVE_INFINITY) < STOP_STAYS_MS;

/** Whether the kernel of a run has given no sign for a while.
 * @param {string} run */
export const isSilent = run =>
  performance.now() - (known.get(run)?.heard ?? Number.NEGATIVE_INFINITY) > SILENT_MS;

/** Take in what a kernel has told of a run.
 * @param {Lab.Facts} facts */
export function learn(facts) {
  const now = performance.now();
  const before = known.get(facts.run);
  const ends = isWorking(facts.run) && !isGoing(facts.state);
  known.set(facts.run, {
    ...facts,
    since: now - (facts.seconds ?? 0) * 1000,
    heard: now,
    told: before?.waiting === facts.waiting ? (before?.told ?? now) : now,
    ended: ends ? now : (before?.ended ?? Number.NEGATIVE_INFINITY),
    there: before?.there,
    code: before?.code
  });
  if (ends) {
    const says = status(facts, { known: true, working: false, silent: false });
    notifyOfEnd(facts.run, says, now - (before?.since ?? now));
  }
  redraw();
}

/** A kernel has given a sign of life, and said what its run has used so far.
 * @param {string} run
 * @param {unknown} used */
export function noteBeat(run, used) {
  const facts = known.get(run);
  if (facts) {
    facts.heard = performance.now();
    if (used && isGoing(facts.state)) {
      Object.assign(facts, usedOf(used));
    }
  }
}

export function redraw() {
  for (const bar of bars) {
    bar.draw();
  }
}

/** Keep what only this page knows: whether the cells are folded away.
 * @param {Lab.Facts} facts
 * @returns {Lab.Facts} */
export function withFold(facts) {
  return { ...facts, folded: known.get(facts.run)?.folded ?? false };
}

// -- what this browser remembers: which runs it has asked of which kernel
// (nothing is saved for that: a save of ours beside the user's makes JupyterLab ask about a
// changed file)

/** @returns {Array<[string, string, string]>} */
function remembered() {
  try {
    return JSON.parse(localStorage.getItem(KEY) ?? '[]');
  } catch {
    return [];
  }
}

/** Remember that a run was asked of a kernel, by its %%agent cell.
 * @param {string} kernel
 * @param {string} run
 * @param {string} anchor */
export function remember(kernel, run, anchor) {
  try {
    const others = remembered().filter(each => each[1] !== run);
    const all = [...others, [kernel, run, anchor]].slice(-MAX_REMEMBERED);
    localStorage.setItem(KEY, JSON.stringify(all));
  } catch {
    // a full or forbidden storage: a reload may miss a run that was not saved
  }
}

/** The runs that were asked of a kernel, and their %%agent cells, in their order.
 * @param {string} kernel
 * @returns {Array<[string, string]>} */
export function recall(kernel) {
  return remembered().filter(each => each[0] === kernel).map(([, run, anchor]) => [run, anchor]);
}
