// @ts-check
/* The agent's cells, live in the notebook that runs it.
 *
 * The kernel publishes a run as ordinary display messages, which any front end shows below the
 * %%agent cell. Each carries in its own metadata what it means for the notebook (`Lab.Tag`). Here
 * those messages are taken out of that cell's outputs and done instead: cells are inserted,
 * written, and given their outputs. A message that was lost shows as a gap in their count; the
 * page then asks the kernel for the whole run. docs/live-cells.md has the protocol.
 *
 * Plain JavaScript, with no imports and no build: JupyterLab asks of a prebuilt extension no more
 * than the container {init, get} at the end of this file.
 *
 * Whatever a message says, this code never runs anything, and writes no cell but those it made
 * and the user has not touched since. */
(() => {
  'use strict';

  const RAISES = 'raises-exception'; // the tag of a cell whose error stops nothing
  const KEY = 'jupyter_agent'; // our namespace in the metadata of cells and messages
  const MIME = 'application/vnd.jupyter-agent.run+json';
  const REQUEST = 'jupyter_agent_request';
  const EVENT = 'jupyter-agent';
  const PATIENCE = 10_000; // milliseconds that a kernel may take to answer
  const FRAME = 8; // milliseconds in which messages are gathered, to change the document once
  const ALONE = 30; // milliseconds: a message so long after the last is done at once
  const KEPT = 50; // runs that a browser remembers
  const PAUSE = 250; // milliseconds without a key before an edit is told
  const RESPITE = 2000; // milliseconds after the user has done something in which nothing scrolls
  const NEAR = 60; // pixels that the end of a cell may be below the edge and still be looked at

  // what no front end can be made to run or fetch with, once HTML and Markdown are looked at
  const INERT = /^(text\/(plain|latex|html|markdown)|image\/(png|jpeg|gif)|application\/json)$/;

  const GOING = new Set(['starting', 'working']); // states of a run that has not ended

  /** Runs that a kernel is known to be carrying out.
   * @type {Set<string>} */
  const alive = new Set();

  // -- cells and what is noted on them

  /** Sum up a source: FNV-1a over its UTF-16 code units, as the kernel does.
   * @param {string} text */
  function checksum(text) {
    let value = 0x811c9dc5;
    for (let i = 0; i < text.length; i++) {
      value = Math.imul(value ^ text.charCodeAt(i), 0x01000193);
    }
    return (value >>> 0).toString(16);
  }

  /** Read what we noted on a cell. A copy of the cell carries the note of another.
   * @param {Lab.Cell | undefined} cell
   * @returns {Lab.Note | undefined} */
  function noteOf(cell) {
    const note = cell?.getMetadata(KEY);
    return note?.id === cell?.id ? note : undefined;
  }

  /** Whether a cell still says what the agent wrote.
   * @param {Lab.Cell} cell
   * @param {Lab.Note} note */
  function untouched(cell, note) {
    return checksum(cell.sharedModel.getSource()) === note.checksum;
  }

  /** Whether nothing in a mime bundle can run or fetch, however trusted it is.
   * @param {Record<string, unknown>} data */
  function isInert(data) {
    const markdown = String(data['text/markdown'] ?? '');
    return Object.keys(data).every(type => INERT.test(type)) && !/<[a-z!/?]|!\[/i.test(markdown);
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

  /** @param {string} kernel
   * @param {string} run
   * @param {string} anchor */
  function remember(kernel, run, anchor) {
    try {
      const others = remembered().filter(each => each[1] !== run);
      localStorage.setItem(KEY, JSON.stringify([...others, [kernel, run, anchor]].slice(-KEPT)));
    } catch {
      // a full or forbidden storage: a reload may miss a run that was not saved
    }
  }

  /** The runs that were asked of a kernel, and their %%agent cells, in their order.
   * @param {string} kernel
   * @returns {Array<[string, string]>} */
  function recalled(kernel) {
    return remembered().filter(each => each[0] === kernel).map(([, run, anchor]) => [run, anchor]);
  }

  // -- a notebook

  /** The runs of one notebook, however many views of it are open. */
  class LiveNotebook {
    /**
     * @param {Lab.App} app
     * @param {Lab.Context} context */
    constructor(app, context) {
      this.app = app;
      this.context = context;
      /** @type {Set<Lab.Panel>} */
      this.panels = new Set();
      /** @type {Lab.Kernel | null} */
      this.kernel = null;
      /** @type {Map<string, Lab.Run>} */
      this.runs = new Map();
      /** The requests that runs answer, and those runs.
       * @type {Map<string, string>} */
      this.requests = new Map();
      /** Cells whose Markdown is being drawn, and whether it has changed since.
       * @type {Map<string, boolean>} */
      this.drawing = new Map();
      /** When the user last used key, wheel or pointer in a view.
       * @type {Map<Lab.Panel, number>} */
      this.handled = new Map();
      /** Whether the user looks at the end of the run there; until that is known, not in it.
       * @type {Map<Lab.Panel, boolean>} */
      this.looking = new Map();
      this.timer = 0;
      this.hidden = false; // whether any cell is folded away
      const session = context.sessionContext;
      const attach = () => this.attach(session.session?.kernel ?? null);
      session.kernelChanged.connect(() => void context.ready.then(attach));
      session.statusChanged.connect((_, status) => {
        if (/restarting|dead|terminating/.test(status)) {
          this.giveUp();
        }
      });
      void context.ready.then(() => {
        attach();
        this.fold();
        context.model.contentChanged.connect(() => this.changed());
      });
    }

    /** Another view of the notebook.
     * @param {Lab.Panel} panel */
    add(panel) {
      this.panels.add(panel);
      panel.disposed.connect(() => {
        for (const each of [this.panels, this.handled, this.looking]) {
          each.delete(panel);
        }
      });
      const handled = () => {
        this.handled.set(panel, Date.now());
        this.looking.delete(panel);
      };
      for (const kind of ['keydown', 'wheel', 'pointerdown']) {
        panel.node.addEventListener(kind, handled, { capture: true, passive: true });
      }
      panel.node.addEventListener(EVENT, event => {
        const { wish, run } = /** @type {CustomEvent<{wish: string, run: string}>} */ (event).detail;
        this.obey(panel, wish, run);
      });
      void this.context.ready.then(() => this.fold());
    }

    // -- the document

    get cells() {
      return [...this.context.model.cells];
    }

    /** @param {string} id */
    cell(id) {
      return this.cells.find(cell => cell.id === id);
    }

    /** The cells of a run, in the order of the notebook.
     * @param {string} run */
    cellsOf(run) {
      return this.cells.filter(cell => {
        const note = noteOf(cell);
        return note?.run === run && note.index;
      });
    }

    /** The %%agent cell of a run.
     * @param {string} run */
    anchorOf(run) {
      return this.cells.find(cell => {
        const note = noteOf(cell);
        return note?.run === run && note.state;
      });
    }

    /** Change the document outside the user's undo. Not for outputs: a cell's model keeps those
     * and the document in step.
     * @param {() => void} change */
    silently(change) {
      this.context.model.sharedModel.transact(change, false);
    }

    /** @param {Lab.Cell} cell
     * @param {Partial<Lab.Note>} facts */
    note(cell, facts) {
      const before = noteOf(cell);
      this.silently(() => cell.setMetadata(KEY, { ...before, ...facts, id: cell.id }));
    }

    // -- messages

    /** Listen to a kernel.
     * @param {Lab.Kernel | null} kernel */
    attach(kernel) {
      if (kernel === this.kernel) {
        return;
      }
      this.kernel = kernel;
      this.runs.clear();
      this.requests.clear();
      kernel?.anyMessage.connect((sender, { msg, direction }) => {
        if (sender === this.kernel && direction === 'recv' && msg.channel === 'iopub') {
          this.hear(sender, msg);
        }
      });
      // the page was reloaded, or the notebook closed, perhaps without having been saved
      const missed = recalled(kernel?.id ?? '').filter(([, anchor]) => this.cell(anchor));
      const latest = new Map(missed.map(([run, anchor]) => [anchor, run]));
      const unseen = [...latest].filter(([anchor, run]) => noteOf(this.cell(anchor))?.run !== run);
      for (const run of new Set([...this.unfinished(), ...unseen.map(([, run]) => run)])) {
        this.sync(run);
      }
      for (const note of this.cells.map(noteOf)) {
        if (note?.state) {
          this.run(note.run); // what becomes of its cells is told
        }
      }
    }

    /** Runs that the notebook holds and that have no end. */
    unfinished() {
      return this.cells.map(noteOf).filter(note => note?.state === 'working').map(note => String(note?.run));
    }

    /** @param {Lab.Kernel} kernel
     * @param {Lab.Message} msg */
    hear(kernel, msg) {
      if (this.context.isDisposed) {
        return;
      }
      const request = msg.parent_header;
      const tag = /** @type {Lab.Tag | undefined} */ (msg.metadata?.[KEY]);
      if (tag?.op && typeof tag.run === 'string') {
        if (this.owns(kernel, tag, request)) {
          if (!this.requests.has(request.msg_id)) {
            this.requests.set(request.msg_id, tag.run);
            kernel.registerMessageHook(request.msg_id, other => !(/** @type {any} */ (other.metadata?.[KEY])?.op));
          }
          this.take(tag, msg.content, request.session === kernel.clientId);
        }
      } else if (msg.header.msg_type === 'status' && msg.content.execution_state === 'idle') {
        const run = this.requests.get(request.msg_id);
        this.requests.delete(request.msg_id);
        if (run) {
          this.flush(this.run(run));
        }
        if (run && (alive.has(run) || this.unfinished().includes(run))) {
          this.sync(run); // the server drops messages of a kernel that sends too many
        }
      }
    }

    /** Whether a run is this page's, or one that it goes on showing after a reload. In a shared
     * document only the page that asked writes; the others get it through the document.
     * @param {Lab.Kernel} kernel
     * @param {Lab.Tag} tag
     * @param {Lab.Header} request */
    owns(kernel, tag, request) {
      if (request.session === kernel.clientId) {
        return this.runs.has(tag.run) || this.cell(tag.anchor) !== undefined;
      }
      const note = noteOf(this.cell(tag.anchor));
      const shown = this.runs.has(tag.run) || (note?.run === tag.run && note.state === 'working');
      return !this.context.model.collaborative && shown;
    }

    /** Do what a message says, in its turn.
     * @param {Lab.Tag} tag
     * @param {Lab.Content} content
     * @param {boolean} own Whether this page asked for the run. */
    take(tag, content, own) {
      if (tag.op === 'recorded') {
        this.recorded(tag, content);
        return;
      }
      const run = this.run(tag.run);
      run.own ||= own;
      if (run.waiting) {
        run.waiting.push([tag, content]);
      } else if (tag.sent === run.sent + 1) {
        run.sent = tag.sent;
        run.queue.push([tag, content]);
        if (performance.now() - run.flushed > ALONE) {
          this.flush(run); // it comes alone
        } else {
          run.timer ||= setTimeout(() => this.flush(run), FRAME);
        }
      } else if (tag.sent > run.sent) {
        this.sync(tag.run).waiting?.push([tag, content]);
      }
    }

    /** @param {string} id */
    run(id) {
      let run = this.runs.get(id);
      if (!run) {
        const shown = new Set(this.cellsOf(id).map(cell => cell.id));
        const none = { sent: 0, last: 0, queue: [], timer: 0, flushed: 0, follows: false, waiting: null };
        run = { id, own: false, ...none, shown, told: new Map() };
        this.runs.set(id, run);
      }
      return run;
    }

    /** Do what has been gathered. Cells that are new are inserted together, as far as they are.
     * @param {Lab.Run} run */
    flush(run) {
      clearTimeout(run.timer);
      const queue = run.queue;
      run.timer = 0;
      run.queue = [];
      if (this.context.isDisposed) {
        return;
      }
      const latest = this.latest(run);
      const following = [...this.panels].filter(panel => this.follows(panel, latest));
      /** @type {Map<string, Lab.CellState>} */
      const fresh = new Map();
      for (const [tag, content] of queue) {
        const state = fresh.get(tag.id);
        if (state) {
          amend(state, tag, content);
        } else if (tag.op === 'cell' && tag.index > run.last && !this.cell(tag.id)) {
          fresh.set(tag.id, { ...tag, source: content.data['text/plain'], outputs: [] });
        } else {
          this.apply(run, tag, content);
        }
      }
      const kept = [...fresh.values()].filter(({ source, state }) => source || state !== 'done');
      if (kept.length) {
        this.insert(run, queue[0][0].anchor, kept);
      }
      if (following.length && !run.follows) {
        run.follows = true;
        requestAnimationFrame(() => {
          run.follows = false;
          this.follow(run);
        });
      }
      run.flushed = performance.now();
    }

    /** @param {Lab.Run} run
     * @param {Lab.Tag} tag
     * @param {Lab.Content} content */
    apply(run, tag, content) {
      switch (tag.op) {
        case 'run':
          this.header(run, tag, content.data);
          break;
        case 'cell':
          this.update(tag, content.data['text/plain']);
          break;
        case 'output':
          this.output(tag, content);
          break;
        case 'clear':
          /** @type {Lab.CodeCell | undefined} */ (this.cell(tag.id))?.outputs?.clear(tag.wait);
          break;
      }
    }

    /** Ask the kernel on its control channel, which answers while a cell runs.
     * @param {object} content
     * @returns {Promise<any>} The reply's content; null if there is none. */
    ask(content) {
      return new Promise(resolve => {
        const kernel = this.kernel;
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
        setTimeout(() => resolve(null), PATIENCE);
      });
    }

    /** Fetch a whole run, and let what comes meanwhile wait.
     * @param {string} id */
    sync(id) {
      const run = this.run(id);
      if (!run.waiting) {
        /** @type {Array<[Lab.Tag, Lab.Content]>} */
        const waiting = [];
        run.waiting = waiting;
        const kernel = this.kernel;
        void this.ask({ op: 'sync', run: id }).then(reply => {
          if (run.waiting !== waiting || kernel !== this.kernel || this.context.isDisposed) {
            return; // given up, or of a kernel that is gone
          }
          run.waiting = null;
          if (reply?.status === 'ok') {
            this.restore(run, reply);
          } else {
            this.lose(id);
          }
          for (const [tag, content] of waiting) {
            this.take(tag, content, false);
          }
        });
      }
      return run;
    }

    /** Bring the notebook up to what the kernel has sent of a run.
     * @param {Lab.Run} run
     * @param {Lab.Snapshot} snapshot */
    restore(run, snapshot) {
      run.sent = snapshot.sent;
      run.queue = [];
      this.header(run, { ...snapshot, op: 'run' }, snapshot.header);
      run.last = Math.max(run.last, noteOf(this.cell(snapshot.anchor))?.last ?? 0);
      const fresh = snapshot.cells.filter(cell => cell.index > run.last);
      for (const cell of snapshot.cells) {
        const model = this.cell(cell.id);
        if (model) {
          run.shown.add(cell.id);
          this.write(model, cell.first_line + cell.source);
          this.fill(model, cell);
        }
      }
      this.insert(run, snapshot.anchor, fresh);
    }

    /** Note that a run will never end: its kernel knows nothing of it.
     * @param {string} id */
    lose(id) {
      this.runs.delete(id);
      alive.delete(id);
      const anchor = this.anchorOf(id) ?? this.cells.find(cell => this.headerOf(cell)?.data[MIME].run === id);
      const note = noteOf(anchor);
      if (anchor && (note?.run !== id || note.state === 'working')) {
        const old = this.headerOf(anchor);
        const facts = { ...(old?.data[MIME] ?? {}), run: id, state: 'lost', doing: '' };
        const text = 'agent: lost, because its kernel is gone; its cells so far stand';
        this.show(anchor, { [MIME]: facts, 'text/markdown': `*${text}*`, 'text/plain': text });
        if (note?.run === id) {
          this.note(anchor, { state: 'lost', header: facts });
        }
      }
      this.rest(id);
    }

    /** The kernel is gone, and with it its runs. */
    giveUp() {
      this.requests.clear();
      const starting = [...this.runs.keys()].filter(run => alive.has(run));
      for (const run of new Set([...this.unfinished(), ...starting])) {
        this.lose(run);
      }
      this.runs.clear();
    }

    // -- the %%agent cell

    /** Show how a run is getting on; once it has begun, put it in the place of an earlier one.
     * @param {Lab.Run} run
     * @param {Lab.Tag} tag
     * @param {Lab.Bundle} data */
    header(run, tag, data) {
      const begun = tag.state !== 'starting' && tag.state !== 'failed';
      const working = GOING.has(tag.state);
      const first = working && !alive.has(run.id);
      if (working) {
        alive.add(run.id);
      } else {
        alive.delete(run.id);
      }
      const anchor = /** @type {Lab.CodeCell | undefined} */ (this.cell(tag.anchor));
      const before = noteOf(anchor);
      if (anchor) {
        if (begun && before?.run !== run.id) {
          if (before?.run) {
            this.remove(before.run);
          }
          this.note(anchor, { run: run.id, state: tag.state, digest: tag.digest, last: 0, header: undefined });
        }
        this.show(anchor, data);
        if (begun && !working) {
          this.note(anchor, { state: tag.state, header: data[MIME] });
        }
      }
      if (!working) {
        this.rest(run.id);
      }
      if (anchor && run.own && first && this.kernel) {
        remember(this.kernel.id, run.id, tag.anchor);
        for (const panel of this.panels) {
          // what JupyterLab loads with the first Markdown stops the page for a third of a second
          const { latexTypesetter, markdownParser } = panel.content.rendermime;
          void latexTypesetter?.typeset(document.createElement('div'));
          void markdownParser?.render('`x`');
          this.handled.delete(panel); // the key that has started it
          this.looking.set(panel, this.sees(panel, anchor));
        }
      }
    }

    /** The finished run stays as it is: the kernel asked no model.
     * @param {Lab.Tag} tag
     * @param {Lab.Content} content */
    recorded(tag, content) {
      const anchor = /** @type {Lab.CodeCell | undefined} */ (this.cell(tag.anchor));
      if (anchor) {
        const facts = { ...noteOf(anchor)?.header, run: tag.run, state: 'recorded' };
        this.show(anchor, { ...content.data, [MIME]: facts });
      }
    }

    /** Take away an earlier run, which is one undo, save for the cells that the user has edited.
     * @param {string} run */
    remove(run) {
      this.runs.delete(run);
      const shared = this.context.model.sharedModel;
      const cells = this.cellsOf(run);
      const kept = cells.filter(cell => !untouched(cell, /** @type {Lab.Note} */ (noteOf(cell))));
      this.silently(() => {
        for (const cell of kept) {
          cell.deleteMetadata(KEY);
        }
      });
      shared.transact(() => {
        for (let i = shared.cells.length - 1; i >= 0; i--) {
          if (cells.some(cell => cell.id === shared.cells[i].getId() && !kept.includes(cell))) {
            shared.deleteCell(i);
          }
        }
      });
    }

    /** @param {Lab.Cell} anchor
     * @returns {Lab.Output | undefined} */
    headerOf(anchor) {
      const outputs = /** @type {Lab.CodeCell} */ (anchor).outputs;
      for (let i = 0; i < (outputs?.length ?? 0); i++) {
        if (outputs.get(i).data?.[MIME]) {
          return outputs.get(i);
        }
      }
      return undefined;
    }

    /** Show a header, in the place of the one that is there.
     * @param {Lab.Cell} anchor
     * @param {Lab.Bundle} data */
    show(anchor, data) {
      const outputs = /** @type {Lab.CodeCell} */ (anchor).outputs;
      if (!outputs) {
        return; // the user has made a Markdown cell of it
      }
      const output = { output_type: 'display_data', data, metadata: {} };
      for (let i = 0; i < outputs.length; i++) {
        if (outputs.get(i).data?.[MIME]) {
          outputs.set(i, output);
          return;
        }
      }
      outputs.add(output);
    }

    // -- the agent's cells

    /** Write a cell as it stands now, if it is still there.
     * @param {Lab.Tag} tag
     * @param {string} source */
    update(tag, source) {
      const cell = this.cell(tag.id);
      if (cell && !source && tag.state === 'done') {
        this.takeBack(cell);
      } else if (cell) {
        this.write(cell, tag.first_line + source);
        this.progress(cell, tag);
      }
    }

    /** The model's reply broke off, and half of one is none.
     * @param {Lab.Cell} cell */
    takeBack(cell) {
      const note = noteOf(cell);
      if (note && untouched(cell, note)) {
        this.runs.get(note.run)?.shown.delete(cell.id);
        this.silently(() => this.context.model.sharedModel.deleteCell(this.cells.indexOf(cell)));
      }
    }

    /** Insert cells that follow each other, in one change of the document.
     * @param {Lab.Run} run
     * @param {string} anchor
     * @param {Lab.CellState[]} states */
    insert(run, anchor, states) {
      const at = states.length ? this.place(run.id, anchor, states[0].index) : 0;
      if (at === 0) {
        return; // the user has deleted the %%agent cell: the run goes on unseen
      }
      run.last = states[states.length - 1].index;
      const cells = states.map(state => this.cellOf(run.id, state));
      const anchorCell = /** @type {Lab.Cell} */ (this.cell(anchor));
      this.silently(() => {
        this.context.model.sharedModel.insertCells(at, cells);
        this.note(anchorCell, { last: run.last });
      });
      states.forEach((state, i) => {
        const cell = this.cells[at + i];
        run.shown.add(cell.id);
        if (state.type === 'markdown') {
          this.widgets(cell, widget => {
            widget.rendered = true;
          });
        } else {
          cell.trusted = state.outputs.every(output => !output.data || isInert(output.data));
        }
        this.progress(cell, state);
      });
    }

    /** @param {string} run
     * @param {Lab.CellState} state */
    cellOf(run, state) {
      const source = state.first_line + state.source;
      const { id, index, type } = state;
      const metadata = { [KEY]: { id, run, index, checksum: checksum(source) } };
      const cell = { id, cell_type: type, source, metadata };
      return type === 'code'
        ? { ...cell, execution_count: state.count ?? null, outputs: state.outputs.map(each => this.cleaned(each)) }
        : cell;
    }

    /** Where a step goes: below the nearest earlier one that is still there, or the %%agent cell.
     * @param {string} run
     * @param {string} anchor
     * @param {number} index */
    place(run, anchor, index) {
      const cells = this.cells;
      let best = cells.findIndex(cell => cell.id === anchor);
      let nearest = 0;
      if (best >= 0) {
        cells.forEach((cell, i) => {
          const note = noteOf(cell);
          if (note?.run === run && note.index && note.index < index && note.index > nearest) {
            nearest = note.index;
            best = i;
          }
        });
      }
      return best + 1;
    }

    /** Set a cell's source, unless the user has changed it.
     * @param {Lab.Cell} cell
     * @param {string} source */
    write(cell, source) {
      const note = noteOf(cell);
      const before = cell.sharedModel.getSource();
      if (!note || before === source || !untouched(cell, note)) {
        return;
      }
      this.silently(() => {
        if (source.startsWith(before)) {
          cell.sharedModel.updateSource(before.length, before.length, source.slice(before.length));
        } else {
          cell.sharedModel.setSource(source);
        }
        cell.setMetadata(KEY, { ...note, checksum: checksum(source) });
      });
      if (cell.type === 'markdown') {
        void this.draw(cell);
      }
    }

    /** Draw Markdown as it grows: JupyterLab waits until it has not changed for a second.
     * @param {Lab.Cell} cell */
    async draw(cell) {
      if (this.drawing.has(cell.id)) {
        this.drawing.set(cell.id, true);
        return;
      }
      do {
        this.drawing.set(cell.id, false);
        const began = performance.now();
        const data = { 'text/markdown': cell.sharedModel.getSource() };
        const model = { data, metadata: {}, trusted: false, setData: () => {} };
        const drawn = [];
        for (const panel of this.panels) {
          const widget = panel.content.widgets[this.cells.indexOf(cell)];
          if (widget?.rendered && !widget.placeholder) {
            drawn.push(widget.renderer?.renderModel(model));
          }
        }
        await Promise.all(drawn).catch(() => {});
        const run = this.runs.get(noteOf(cell)?.run ?? '');
        if (run) {
          this.follow(run); // it may have grown
        }
        const took = performance.now() - began;
        await new Promise(resolve => setTimeout(resolve, took)); // the page has half of its time left
      } while (this.drawing.get(cell.id) && !this.context.isDisposed);
      this.drawing.delete(cell.id);
    }

    /** Show whether a code cell is running, or its count.
     * @param {Lab.Cell} cell
     * @param {{state: string, count?: number | null}} state */
    progress(cell, { state, count }) {
      if (cell.type === 'code') {
        const code = /** @type {Lab.CodeCell} */ (cell);
        if (state === 'done' && count && code.executionCount !== count) {
          code.executionCount = count;
        }
        if (state === 'done') {
          this.goOnPast(code);
        }
        this.running(code, state === 'running');
      }
    }

    /** Let *Run All* go on after an error, which the agent has read: a later step may mend it.
     * @param {Lab.CodeCell} cell */
    goOnPast(cell) {
      const tags = cell.getMetadata('tags') ?? [];
      const failed = cell.outputs?.toJSON().some(output => output.output_type === 'error');
      if (failed && noteOf(cell) && !tags.includes(RAISES)) {
        this.silently(() => cell.setMetadata('tags', [...tags, RAISES]));
      }
    }

    /** @param {Lab.CodeCell} cell
     * @param {boolean} on */
    running(cell, on) {
      if ('executionState' in cell) {
        if (cell.executionState !== (on ? 'running' : 'idle')) {
          cell.executionState = on ? 'running' : 'idle';
        }
      } else {
        // before JupyterLab 4.4
        this.widgets(cell, widget => widget.setPrompt?.(on ? '*' : `${cell.executionCount ?? ''}`));
      }
    }

    /** No cell of a run runs any more.
     * @param {string} run */
    rest(run) {
      for (const cell of this.cellsOf(run)) {
        this.progress(cell, { state: 'idle' });
      }
    }

    /** Bring a cell's outputs up to those that the kernel has sent.
     * @param {Lab.Cell} cell
     * @param {Lab.CellState} state */
    fill(cell, state) {
      const code = /** @type {Lab.CodeCell} */ (cell);
      if (state.type === 'code' && code.outputs) {
        const outputs = state.outputs.map(output => this.cleaned(output));
        if (JSON.stringify(code.outputs.toJSON()) !== JSON.stringify(outputs)) {
          code.outputs.fromJSON(outputs);
        }
        this.distrust(code, outputs);
        this.progress(code, state);
      }
    }

    /** Add an output, or change one; a stream grows.
     * @param {Lab.Tag} tag
     * @param {Lab.Content} content */
    output(tag, content) {
      const cell = /** @type {Lab.CodeCell | undefined} */ (this.cell(tag.id));
      if (!cell?.outputs || !noteOf(cell)) {
        return;
      }
      const output = this.cleaned(outputOf(tag, content));
      this.distrust(cell, [output]);
      if (output.output_type === 'stream' || tag.index >= cell.outputs.length) {
        cell.outputs.add(output);
      } else {
        cell.outputs.set(tag.index, output);
      }
    }

    /** Clean HTML once more, as JupyterLab does for a notebook it does not trust.
     * @param {Lab.OutputData} output
     * @returns {Lab.OutputData} */
    cleaned(output) {
      const html = output.data?.['text/html'];
      const [panel] = this.panels;
      if (!output.data || html === undefined) {
        return output;
      }
      const clean = panel?.content.rendermime.sanitizer.sanitize([html].flat().join('')) ?? '';
      return { ...output, data: { ...output.data, 'text/html': clean } };
    }

    /** A cell is trusted only while its outputs are inert: what is not shall not run here, nor
     * when the notebook is opened again.
     * @param {Lab.CodeCell} cell
     * @param {Lab.OutputData[]} outputs */
    distrust(cell, outputs) {
      if (outputs.some(output => output.data && !isInert(output.data))) {
        cell.trusted = false;
        this.silently(() => cell.setMetadata('trusted', false)); // the server goes by this when it signs
      }
    }

    // -- views

    /** Do something with the widgets of a cell, which come to be right after its model.
     * @param {Lab.Cell} cell
     * @param {(widget: Lab.CellWidget) => void} change */
    widgets(cell, change) {
      queueMicrotask(() => {
        const index = this.cells.indexOf(cell);
        for (const panel of this.panels) {
          const widget = panel.content.widgets[index];
          if (widget && !widget.isDisposed) {
            change(widget);
          }
        }
      });
    }

    /** The newest cell of a run that is there, or its %%agent cell.
     * @param {Lab.Run} run */
    latest(run) {
      const indexOf = /** @param {Lab.Cell} cell */ cell => noteOf(cell)?.index ?? 0;
      const cells = this.cellsOf(run.id).sort((a, b) => indexOf(a) - indexOf(b));
      return cells.at(-1) ?? this.anchorOf(run.id);
    }

    /** Whether the end of a cell is on the screen.
     * @param {Lab.Panel} panel
     * @param {Lab.Cell} cell */
    sees(panel, cell) {
      const box = panel.content.widgets[this.cells.indexOf(cell)]?.node.getBoundingClientRect();
      const pane = panel.content.outerNode.getBoundingClientRect();
      return Boolean(box?.height) && box.bottom > pane.top && box.bottom <= pane.bottom + NEAR;
    }

    /** Whether a view's user looks at the end of a run, and does nothing else.
     * @param {Lab.Panel} panel
     * @param {Lab.Cell | undefined} cell Its newest. */
    follows(panel, cell) {
      const focus = document.activeElement;
      const edits = panel.node.contains(focus) && focus?.closest('.cm-content');
      if (!cell || edits || Date.now() - (this.handled.get(panel) ?? 0) < RESPITE) {
        return false;
      }
      if (!this.looking.has(panel)) {
        this.looking.set(panel, this.sees(panel, cell));
      }
      return this.looking.get(panel);
    }

    /** Scroll down as far as a run has grown. Not with scrollToItem, which tries for long and
     * takes the scroll from who has used it meanwhile.
     * @param {Lab.Run} run */
    follow(run) {
      const cell = this.latest(run);
      for (const panel of [...this.panels].filter(each => this.follows(each, cell))) {
        let index = cell ? this.cells.indexOf(cell) : -1;
        const boxOf = () => panel.content.widgets[index]?.node.getBoundingClientRect();
        let box = boxOf();
        while (box && !box.height) {
          index--; // it is not drawn yet: go on to where it will be
          box = boxOf();
        }
        const pane = panel.content.outerNode;
        const below = (box?.bottom ?? 0) - pane.getBoundingClientRect().bottom;
        if (below > 0) {
          pane.scrollTop += below;
        }
      }
    }

    /** Fold the cells of runs away, or out again, as their headers say. */
    fold() {
      const folded = new Set();
      for (const cell of this.cells) {
        const facts = cell.type === 'code' ? this.headerOf(cell)?.data[MIME] : undefined;
        if (facts?.folded && noteOf(cell)?.run === facts.run) {
          folded.add(facts.run);
        }
      }
      if (!folded.size && !this.hidden) {
        return;
      }
      this.hidden = folded.size > 0;
      this.cells.forEach((cell, i) => {
        const note = noteOf(cell);
        const hide = Boolean(note?.index && folded.has(note.run));
        for (const panel of this.panels) {
          const widget = panel.content.widgets[i];
          if (widget && (hide || note?.index) && widget.isHidden !== hide) {
            widget.setHidden(hide);
          }
        }
      });
    }

    /** What the bar's buttons ask for.
     * @param {Lab.Panel} panel
     * @param {string} wish
     * @param {string} run */
    obey(panel, wish, run) {
      const anchor = /** @type {Lab.CodeCell | undefined} */ (this.anchorOf(run));
      switch (wish) {
        case 'stop':
          void this.kernel?.interrupt().catch(() => {});
          break;
        case 'fold': {
          const header = anchor && this.headerOf(anchor);
          if (anchor && header) {
            const facts = { ...header.data[MIME], folded: !header.data[MIME].folded };
            this.show(anchor, { ...header.data, [MIME]: facts });
            this.fold();
          }
          break;
        }
        case 'again':
          if (anchor) {
            this.note(anchor, { state: 'again' });
            panel.content.deselectAll();
            panel.content.activeCellIndex = this.cells.indexOf(anchor);
            void this.app.commands.execute('notebook:run-cell');
          }
          break;
      }
    }

    /** The notebook has changed: tell the kernel, once the user pauses, what became of cells. */
    changed() {
      if (this.runs.size || this.hidden) {
        this.timer ||= setTimeout(() => this.tell(), PAUSE);
      }
    }

    /** Tell the kernel what the user has made of the agent's cells. */
    tell() {
      this.timer = 0;
      if (this.context.isDisposed) {
        return;
      }
      if (Date.now() - Math.max(0, ...this.handled.values()) < PAUSE) {
        this.changed(); // the user goes on
        return;
      }
      this.fold();
      const cells = new Map(this.cells.map(cell => [cell.id, cell]));
      for (const run of this.runs.values()) {
        for (const id of run.shown) {
          const cell = cells.get(id);
          const note = noteOf(cell);
          const source = cell?.sharedModel.getSource();
          const same = cell && (!note || untouched(cell, note)) && run.told.get(id) !== null;
          if (!cell && run.told.get(id) !== null) {
            run.told.set(id, null);
            void this.ask({ op: 'delete', run: run.id, id });
          } else if (cell && !same && run.told.get(id) !== source) {
            run.told.set(id, source ?? '');
            void this.ask({ op: 'edit', run: run.id, id, source });
          }
        }
      }
    }
  }

  /** Make an output of a message. An error comes as text, so that a front end without this
   * extension does not take it for the %%agent cell's own.
   * @param {Lab.Tag} tag
   * @param {Lab.Content} content
   * @returns {Lab.OutputData} */
  function outputOf(tag, content) {
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

  /** Bring a cell that is not in the notebook yet up to a message.
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

  // -- the bar

  const STYLE = `
.jp-JupyterAgentBar {
  display: flex; align-items: center; gap: 4px 8px; flex-wrap: wrap;
  padding: 2px 8px !important; min-height: 28px; box-sizing: border-box; container-type: inline-size;
  border-left: 3px solid var(--jp-border-color1);
  background: var(--jp-layout-color1);
  color: var(--jp-content-font-color1);
  font-family: var(--jp-ui-font-family); font-size: var(--jp-ui-font-size1); line-height: 1.4;
}
.jp-JupyterAgentBar[data-state='starting'], .jp-JupyterAgentBar[data-state='working'] { border-left-color: var(--jp-brand-color1); }
.jp-JupyterAgentBar[data-state='done'], .jp-JupyterAgentBar[data-state='recorded'] {
  border-left-color: var(--jp-success-color1);
}
.jp-JupyterAgentBar[data-state='stopped'], .jp-JupyterAgentBar[data-state='lost'],
.jp-JupyterAgentBar[data-state='failed'] {
  border-left-color: var(--jp-warn-color1);
}
.jp-JupyterAgentBar-doing { font-weight: 600; }
.jp-JupyterAgentBar-facts { color: var(--jp-content-font-color2); font-variant-numeric: tabular-nums; }
.jp-JupyterAgentBar-where {
  flex: 1 1 0; min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
  color: var(--jp-content-font-color2);
}
@container (max-width: 480px) { /* where it runs is on the bar's title then */
  .jp-JupyterAgentBar-where { display: none; }
  .jp-JupyterAgentBar-facts { flex: 1 1 0; }
}
.jp-JupyterAgentBar button {
  height: 22px; padding: 0 8px; margin: 0; cursor: pointer;
  border: 1px solid var(--jp-border-color1); border-radius: var(--jp-border-radius);
  background: var(--jp-layout-color2); color: var(--jp-ui-font-color1);
  font: inherit; white-space: nowrap;
}
.jp-JupyterAgentBar button:hover { background: var(--jp-layout-color3); }
.jp-JupyterAgentBar button:focus-visible { outline: 2px solid var(--jp-brand-color1); outline-offset: 1px; }
`;

  const STATES = /** @type {Record<string, string>} */ ({
    done: 'Done',
    stopped: 'Stopped',
    failed: 'Not started',
    lost: 'Lost: its kernel is gone',
    recorded: 'As recorded: no model was asked'
  });
  const DOING = /** @type {Record<string, string>} */ ({ thinking: 'Thinking', writing: 'Writing', running: 'Running' });

  /** @param {any} value */
  const number = value => (Number.isFinite(value) ? Number(value) : 0);

  /** Make the widget that draws a header: a slim bar with what the run does, and its buttons.
   * @param {typeof Lab.Widget} Widget JupyterLab's own. */
  function barClass(Widget) {
    return class extends Widget {
      constructor() {
        super();
        this.addClass('jp-JupyterAgentBar');
        this.node.setAttribute('role', 'group');
        this.node.setAttribute('aria-label', 'Agent run');
        /** @type {Lab.Facts} */
        this.facts = { run: '', state: '' };
        this.since = 0;
        this.ticking = 0;
        /** @param {string} name */
        const span = name => {
          const node = document.createElement('span');
          node.className = `jp-JupyterAgentBar-${name}`;
          this.node.append(node);
          return node;
        };
        this.doing = span('doing');
        this.doing.setAttribute('role', 'status');
        this.doing.setAttribute('aria-live', 'polite'); // as the role implies; not all readers know
        this.numbers = span('facts');
        this.where = span('where');
        this.stop = this.button('stop', '■ Stop', 'Stop the agent');
        this.again = this.button('again', '↻ Run again', 'Ask the model again');
        this.folder = this.button('fold', '', '');
      }

      /** @param {string} wish
       * @param {string} text
       * @param {string} title */
      button(wish, text, title) {
        const button = document.createElement('button');
        button.type = 'button';
        button.textContent = text;
        button.title = title;
        button.addEventListener('click', () => {
          const detail = { wish, run: this.facts.run };
          this.node.dispatchEvent(new CustomEvent(EVENT, { bubbles: true, detail }));
        });
        button.addEventListener('keydown', event => {
          if (event.key === 'Enter' || event.key === ' ') {
            event.stopPropagation(); // it presses the button, and is not the notebook's
          }
        });
        this.node.append(button);
        return button;
      }

      /** @param {{data: Record<string, any>}} model */
      async renderModel(model) {
        this.facts = model.data[MIME];
        this.since = performance.now() - number(this.facts.seconds) * 1000;
        this.draw();
        this.tick();
      }

      get working() {
        return GOING.has(this.facts.state) && alive.has(this.facts.run);
      }

      draw() {
        const { state, doing, waiting, model, sandbox, cells, folded } = this.facts;
        const working = this.working;
        const focused = /** @type {HTMLElement | null} */ (document.activeElement);
        this.node.dataset.state = working || !GOING.has(state) ? state : 'lost';
        const what = working ? `${waiting || (DOING[doing ?? ''] ?? 'Working')}…` : (STATES[state] ?? 'Not finished');
        if (this.doing.textContent !== what) {
          this.doing.textContent = what; // a screen reader says it once
        }
        this.count();
        this.where.textContent = [model, sandbox].filter(Boolean).join(' · ');
        this.where.title = this.node.title = this.where.textContent;
        this.stop.hidden = !working;
        this.again.hidden = working || state === 'failed';
        const plural = cells === 1 ? '' : 's';
        this.folder.hidden = working || !number(cells);
        this.folder.textContent = `${folded ? '▸' : '▾'} ${number(cells)} cell${plural}`;
        this.folder.title = folded ? "Show the agent's cells" : "Fold the agent's cells away";
        this.folder.setAttribute('aria-expanded', String(!folded));
        if (focused?.hidden && this.node.contains(focused)) {
          (working ? this.stop : this.again).focus(); // the keyboard stays in the bar
        }
      }

      count() {
        const { step, tokens, estimated } = this.facts;
        const seconds = this.working ? (performance.now() - this.since) / 1000 : number(this.facts.seconds);
        const parts = [];
        if (step) {
          parts.push(`step ${number(step)}`);
        }
        if (tokens) {
          parts.push(`${estimated ? '~' : ''}${number(tokens).toLocaleString('en')} tokens`);
        }
        if (this.facts.seconds !== undefined) {
          parts.push(`${Math.floor(seconds)} s`);
        }
        this.numbers.textContent = parts.join(' · ');
      }

      /** Count the seconds while a run goes on and can be seen. */
      tick() {
        clearInterval(this.ticking);
        if (this.isAttached && this.working) {
          this.ticking = setInterval(() => this.count(), 1000);
        }
      }

      onAfterAttach() {
        this.draw();
        this.tick();
      }

      onBeforeDetach() {
        clearInterval(this.ticking);
      }
    };
  }

  // -- what JupyterLab loads

  /** @type {Map<Lab.Context, LiveNotebook>} */
  const notebooks = new Map();
  const plugin = {
    id: 'jupyter-agent-kernel:live-cells',
    description: 'Shows the cells that an agent writes as cells of the notebook, while it writes them.',
    autoStart: true,
    /** @param {Lab.App} app */
    activate: app => {
      const style = document.createElement('style');
      style.textContent = STYLE;
      document.head.append(style);
      app.docRegistry.addWidgetExtension('Notebook', {
        createNew: (panel, context) => {
          let notebook = notebooks.get(context);
          if (!notebook) {
            notebook = new LiveNotebook(app, context);
            notebooks.set(context, notebook);
            context.disposed.connect(() => notebooks.delete(context));
          }
          notebook.add(panel);
        }
      });
    }
  };

  /** What JupyterLab shares between extensions.
   * @type {Lab.ShareScope} */
  let shared = {};

  /** The renderer of headers, for every notebook. */
  async function mimeExtension() {
    const widgets = Object.values(shared['@lumino/widgets'])[0];
    const { Widget } = (await widgets.get())();
    const Bar = barClass(Widget);
    const rendererFactory = { safe: true, mimeTypes: [MIME], createRenderer: () => new Bar() };
    return { id: 'jupyter-agent-kernel:bar', rendererFactory, rank: 0, dataType: 'json' };
  }

  const modules = /** @type {Record<string, () => Promise<unknown>>} */ ({
    './extension': async () => plugin,
    './mimeExtension': mimeExtension
  });

  const page = /** @type {any} */ (window);
  page._JUPYTERLAB = page._JUPYTERLAB || {};
  page._JUPYTERLAB['jupyter-agent-kernel'] = {
    /** @param {Lab.ShareScope} scope */
    init: scope => {
      shared = scope;
    },
    /** @param {string} name */
    get: async name => {
      const loaded = await modules[name]();
      return () => ({ __esModule: true, default: loaded });
    }
  };
})();
