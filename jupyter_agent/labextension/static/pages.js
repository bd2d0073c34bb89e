// @ts-check
/* Agree with other pages that have the document open which of them writes a run into it. */

import { KEY } from './messages.js';

const MEETING_MS = 3000; // in which pages that share a document hear of each other

export class Pages {
  /**
   * @param {Lab.Context} context
   * @param {() => void} changed What is done when a page has come or gone. */
  constructor(context, changed) {
    this.context = context;
    this.changed = changed;
    /** The sessions of pages that have this document open, or had.
     * @type {Set<string>} */
    this.met = new Set();
    /** Of this page with its kernel.
     * @type {string | undefined} */
    this.session = undefined;
    this.arrived = 0;
  }

  get awareness() {
    return this.context.model.sharedModel.awareness;
  }

  /** Hear of pages that come and go; once the document is there. */
  listen() {
    this.awareness.on('change', ({ added }) => {
      if (added.length) {
        this.announce(); // a newcomer has not heard of it
      }
      this.meet();
    });
  }

  /** This page has a new session. */
  arrive() {
    this.announce();
    this.arrived = performance.now();
    setTimeout(() => this.meet(), MEETING_MS);
  }

  /** Tell the pages that share the document of this one. */
  announce() {
    this.awareness.setLocalStateField(KEY, { session: this.session });
  }

  meet() {
    for (const session of this.sessions().keys()) {
      this.met.add(session);
    }
    this.changed();
  }

  /** The pages that have this document open, by their session with the kernel. A document is
   * shared if the server says so (jupyter-collaboration); else there is this page alone.
   * @returns {Map<string, number>} */
  sessions() {
    /** @type {Map<string, number>} */
    const sessions = new Map();
    for (const [page, state] of this.awareness.getStates()) {
      const session = state?.[KEY]?.session;
      if (typeof session === 'string') {
        sessions.set(session, page);
      }
    }
    return sessions;
  }

  /** Whether this page writes a run into the document: the one that has asked for it, if it is
   * there, or else the first. The others get it through the document.
   * @param {Lab.Run} run */
  writes(run) {
    const early = performance.now() - this.arrived < MEETING_MS;
    if (this.context.model.collaborative && early && run.session && !this.met.has(run.session)) {
      return false; // this page may only not have heard of the one that has asked
    }
    return isWriter(this.awareness.clientID, run.session, this.sessions());
  }
}

/** Whether a page is the one that writes a run.
 * @param {number} page
 * @param {string} session Of the page that has asked for the run.
 * @param {Map<string, number>} sessions The pages, by their sessions. */
export function isWriter(page, session, sessions) {
  const writer = sessions.get(session) ?? Math.min(...sessions.values());
  return !sessions.size || writer === page;
}
