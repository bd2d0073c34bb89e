// @ts-check
/* Read the kernel's messages about runs. Nothing here touches the page. */

/** Our namespace in the metadata of cells and messages, and the name of the agent kernel. */
export const KEY = 'jupyter_agent';
/** The header of a run: what a bar shows. */
export const MIME = 'application/vnd.jupyter-agent.run+json';

/** Messages with mime bundles. */
export const DISPLAYS = /^(display_data|update_display_data|execute_result)$/;

// what JupyterLab draws without a sanitizer, whether a cell is trusted or not
const INERT = /^(text\/plain|image\/(png|jpeg|gif)|application\/(json|vnd\.jupyter-agent\.run\+json))$/;
const MAX_FACT = 200; // characters of a text in a header

/** Read the facts of a header, which may be anything.
 * @param {any} value
 * @returns {Lab.Facts} */
export function factsOf(value) {
  /** @param {string} name */
  const text = name => (typeof value?.[name] === 'string' ? value[name].slice(0, MAX_FACT) : '');
  /** @param {string} name */
  const count = name => (Number.isFinite(value?.[name]) ? value[name] : 0);
  const [run, state, doing, waiting, model, sandbox, why] = [
    'run', 'state', 'doing', 'waiting', 'model', 'sandbox', 'why'
  ].map(text);
  const [step, seconds, cells, wait] = ['step', 'seconds', 'cells', 'wait'].map(count);
  const texts = { run, state, doing, waiting, model, sandbox, why };
  const flags = { folded: value?.folded === true, background: value?.background === true };
  return { ...texts, step, seconds, cells, wait, ...flags, ...usedOf(value) };
}

/** Read what a run has used, which may be anything.
 * @param {any} value
 * @returns {Lab.Used} */
export function usedOf(value) {
  /** @param {string} name */
  const count = name => (Number.isFinite(value?.[name]) ? Math.max(0, value[name]) : 0);
  const [tokens, tokens_in, tokens_out, cost, limit] = [
    'tokens', 'tokens_in', 'tokens_out', 'cost', 'limit'
  ].map(count);
  const flags = { estimated: value?.estimated === true, unpriced: value?.unpriced === true };
  const priced = Number.isFinite(value?.cost) && value.priced !== false; // facts are read again
  return { tokens, tokens_in, tokens_out, cost, limit, priced, ...flags };
}

/** Whether a mime bundle is drawn alike, trusted or not.
 * @param {Record<string, unknown>} data */
export function isInert(data) {
  return Object.keys(data).every(type => INERT.test(type));
}

/** Make an output of a message. An error comes as text, so that a front end without this
 * extension does not take it for the %%agent cell's own.
 * @param {Lab.Tag} tag
 * @param {Lab.Content} content
 * @returns {Lab.OutputData} */
export function outputOf(tag, content) {
  if (tag.error) {
    return tag.error;
  }
  if (content.name) {
    return { output_type: 'stream', name: content.name, text: content.text };
  }
  const { data, metadata } = content;
  return typeof tag.count === 'number'
    ? { output_type: 'execute_result', data, metadata, execution_count: tag.count }
    : { output_type: 'display_data', data, metadata };
}

/** Update a cell that is not in the notebook yet with a message.
 * @param {Lab.CellState} state
 * @param {Lab.Tag} tag
 * @param {Lab.Content} content */
function amend(state, tag, content) {
  if (tag.op === 'cell') {
    Object.assign(state, tag, { source: content.data['text/plain'] });
  } else if (tag.op === 'clear') {
    state.outputs = [];
  } else if (tag.op === 'output') {
    const output = outputOf(tag, content);
    const before = state.outputs[tag.index];
    if (before?.output_type === 'stream' && output.output_type === 'stream') {
      output.text = `${before.text}${output.text}`;
    }
    state.outputs[tag.index] = output;
  }
}

/** Sort messages that were gathered: the new cells, as they stand after all of these messages, and
 * the messages that are about something else. Of several that write one cell the last one counts.
 * @param {Array<[Lab.Tag, Lab.Content]>} queue
 * @param {{last: number, isThere: (id: string) => boolean}} notebook The last step that it has
 *   shown (an earlier one that is not there was deleted), and whether it holds a cell.
 * @returns {{cells: Lab.CellState[], others: Array<[Lab.Tag, Lab.Content]>}} */
export function sortMessages(queue, { last, isThere }) {
  /** @type {Map<string, Lab.CellState>} */
  const fresh = new Map();
  /** @type {Map<string, number>} */
  const lastWrites = new Map();
  queue.forEach(([tag], i) => {
    if (tag.op === 'cell') {
      lastWrites.set(tag.id, i);
    }
  });
  /** @type {Array<[Lab.Tag, Lab.Content]>} */
  const others = [];
  for (const [i, [tag, content]] of queue.entries()) {
    const there = tag.op === 'cell' && isThere(tag.id);
    if (there && lastWrites.get(tag.id) !== i) {
      continue;
    }
    const state = fresh.get(tag.id);
    if (state) {
      amend(state, tag, content);
    } else if (tag.op === 'cell' && tag.index > last && !there) {
      fresh.set(tag.id, { ...tag, source: content.data['text/plain'], outputs: [] });
    } else {
      others.push([tag, content]);
    }
  }
  // an empty cell that is done is one that the model took back
  const cells = [...fresh.values()].filter(({ source, state }) => source || state !== 'done');
  return { cells, others };
}
