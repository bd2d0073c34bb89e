// @ts-check
/* Requests of a page to a kernel. */

import { KEY } from './messages.js';

/** What loads the magics. */
export const LOAD = '%load_ext jupyter_agent';
const REQUEST = 'jupyter_agent_request';
const ANSWER_MS = 10_000; // that a kernel may take to answer

/** Ask a kernel on its control channel, which answers while a cell runs.
 * @param {Lab.Kernel | null} kernel
 * @param {object} content
 * @returns {Promise<any>} The reply's content; null if there is none. */
export function ask(kernel, content) {
  return new Promise(resolve => {
    if (!kernel) {
      resolve(null);
      return;
    }
    const header = {
      msg_id: `${KEY}-${Date.now()}-${Math.random()}`,
      msg_type: REQUEST,
      session: kernel.clientId,
      username: kernel.username ?? '',
      date: new Date().toISOString(),
      version: '5.2'
    };
    try {
      const message = { channel: 'control', header, parent_header: {}, metadata: {}, content, buffers: [] };
      const future = kernel.sendControlMessage(message, true, true);
      future.onReply = reply => resolve(reply.content);
      future.done.catch(() => resolve(null));
    } catch {
      resolve(null); // the kernel is dead
    }
    setTimeout(() => resolve(null), ANSWER_MS);
  });
}

/** Have a kernel load the magics, which one that was restarted has not; tell if it has them.
 * @param {Lab.Kernel} kernel */
export async function loadMagics(kernel) {
  try {
    const request = { code: LOAD, silent: true, store_history: false, allow_stdin: false };
    const reply = await kernel.requestExecute(request).done;
    return reply.content.status === 'ok';
  } catch {
    return false; // the kernel died
  }
}

/** Whether a kernel of the user's own has the magics, also such that load when they are used.
 * @param {Lab.Kernel} kernel */
export async function hasMagics(kernel) {
  const found = "(lambda m: 'agent' in m.magics['cell'] or 'agent' in m.lazy_magics)(get_ipython().magics_manager)";
  try {
    const quiet = { silent: true, store_history: false, allow_stdin: false };
    const { content } = await kernel.requestExecute({ code: '', user_expressions: { found }, ...quiet }).done;
    return content.user_expressions?.found?.data?.['text/plain'] === 'True';
  } catch {
    return false; // the kernel died
  }
}

/** Interrupt a kernel, if it is there.
 * @param {Lab.Kernel | null} kernel */
export function interrupt(kernel) {
  void kernel?.interrupt().catch(() => {});
}
