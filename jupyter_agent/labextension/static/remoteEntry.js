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
 * and the user has not touched since. What a file says (notes in the metadata of cells, saved
 * outputs) may be anybody's: a cell is hidden, removed or written only if the kernel told this
 * page of it (`Lab.Run.held`), and a bar that no kernel has vouched for says so (`known`). What
 * the agent wrote is drawn untrusted. */
(() => {
  'use strict';

  const RAISES = 'raises-exception'; // the tag of a cell whose error stops nothing
  const KEY = 'jupyter_agent'; // our namespace in the metadata of cells and messages
  const MIME = 'application/vnd.jupyter-agent.run+json';
  const REQUEST = 'jupyter_agent_request';
  const EVENT = 'jupyter-agent';
  const PATIENCE = 10_000; // milliseconds that a kernel may take to answer
  // milliseconds in which messages are gathered, to change the document once; by a timer, as
  // JupyterLab 4.2 does not show a cell that is inserted in an animation frame
  const GATHERED = 8;
  const MEETING = 3000; // milliseconds in which pages that share a document hear of each other
  const KEPT = 50; // runs that a browser remembers
  const PAUSE = 250; // milliseconds without a key before an edit is told
  const RESPITE = 2000; // milliseconds after the user has done something in which nothing scrolls
  const REST = 1000; // milliseconds in which no other button answers where Stop was
  const SILENCE = 1800; // milliseconds without a sign of a kernel that gives several in that time
  const NEAR = 60; // pixels that the end of a cell may be below the edge and still be looked at

  const AGENT = '%%agent'; // what a cell begins with that asks the agent
  const SANDBOX = '%%sandbox\n'; // what the agent's code begins with in the user's own kernel
  const WRITTEN = new Set(['code', 'prose']); // roles of cells that the model wrote, in a saved run

  // what is drawn without a sanitizer, however little it is trusted
  const INERT = /^(text\/plain|image\/(png|jpeg|gif)|application\/(json|vnd\.jupyter-agent\.run\+json))$/;

  const DISPLAYS = /^(display_data|update_display_data|execute_result)$/; // messages with mime bundles
  const GOING = new Set(['starting', 'working']); // states of a run that has not ended

  /** What kernels have told this page of runs, and when: all else that a bar says is from a file.
   * @type {Map<string, Lab.KnownFacts>} */
  const known = new Map();

  /** @param {string} run */
  const working = run => GOING.has(known.get(run)?.state ?? '');

  /** Whether a run has just ended.
   * @param {string} run */
  const rests = run => performance.now() - (known.get(run)?.ended ?? Number.NEGATIVE_INFINITY) < REST;

  /** Bars that are on the page: they draw what is known.
   * @type {Set<Lab.Bar>} */
  const bars = new Set();

  /** Take in what a kernel has told of a run.
   * @param {Lab.Facts} facts */
  function learn(facts) {
    const now = performance.now();
    const before = known.get(facts.run);
    const ends = working(facts.run) && !GOING.has(facts.state);
    known.set(facts.run, {
      ...facts,
      since: now - (facts.seconds ?? 0) * 1000,
      heard: now,
      told: before?.waiting === facts.waiting ? (before?.told ?? now) : now,
      ended: ends ? now : (before?.ended ?? Number.NEGATIVE_INFINITY),
      there: before?.there
    });
    redraw();
  }

  function redraw() {
    for (const bar of bars) {
      bar.draw();
    }
  }

  /** Read the facts of a header, which may be anything.
   * @param {any} value
   * @returns {Lab.Facts} */
  function factsOf(value) {
    /** @param {string} name */
    const text = name => (typeof value?.[name] === 'string' ? value[name].slice(0, 200) : '');
    /** @param {string} name */
    const count = name => (Number.isFinite(value?.[name]) ? value[name] : 0);
    const [run, state, doing, waiting, model, sandbox, why] = [
      'run', 'state', 'doing', 'waiting', 'model', 'sandbox', 'why'
    ].map(text);
    const [step, tokens, seconds, cells, wait] = ['step', 'tokens', 'seconds', 'cells', 'wait'].map(count);
    const flags = { estimated: value?.estimated === true, folded: value?.folded === true };
    return { run, state, doing, waiting, model, sandbox, why, step, tokens, seconds, cells, wait, ...flags };
  }

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

  /** The id of the cell that keeps the place of a run's first.
   * @param {string} run */
  const placeOf = run => `${run}-0`;

  /** Whether a cell still says what the agent wrote.
   * @param {Lab.Cell} cell
   * @param {Lab.Note} note */
  function untouched(cell, note) {
    return checksum(cell.sharedModel.getSource()) === note.checksum;
  }

  /** Whether a cell is the agent's, or made of one: a half, a copy, one that the user has edited; also
   * of a run that was saved as a notebook of its own, where cells have roles.
   * @param {Lab.Cell | undefined} cell */
  function isAgents(cell) {
    const note = cell?.getMetadata(KEY);
    return typeof note?.checksum === 'string' || WRITTEN.has(note?.role ?? '');
  }

  /** Whether a cell is of the sandbox, where its code is to stay: any of a saved run but its task.
   * @param {Lab.Cell} cell */
  function isConfined(cell) {
    const role = cell.getMetadata(KEY)?.role;
    return isAgents(cell) || (role !== undefined && role !== 'task');
  }

  /** Whether a mime bundle is drawn alike, trusted or not.
   * @param {Record<string, unknown>} data */
  function isInert(data) {
    return Object.keys(data).every(type => INERT.test(type));
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
      /** How far each view is scrolled.
       * @type {Map<Lab.Panel, number>} */
      this.tops = new Map();
      /** The cells that requests of this page run.
       * @type {Map<string, string>} */
      this.executed = new Map();
      /** Whether every cell of this kernel runs in the sandbox; undefined until it has said so.
       * @type {boolean | undefined} */
      this.confined = undefined;
      this.timer = 0;
      /** Cells that are folded away.
       * @type {Set<string>} */
      this.hidden = new Set();
      /** What the headers of cells said that are to run, before JupyterLab takes them away.
       * @type {Map<string, Lab.Facts>} */
      this.headers = new Map();
      /** Cells that are to run whatever they hold, and how their runs stood.
       * @type {Map<string, string>} */
      this.again = new Map();
      /** Bars at the foot of views, for a run whose own bar is out of sight.
       * @type {Map<Lab.Panel, Lab.Bar>} */
      this.feet = new Map();
      /** The sessions of pages that have this document open, or had.
       * @type {Set<string>} */
      this.met = new Set();
      this.attached = 0;
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
        context.model.contentChanged.connect(() => this.changed());
        // once the document is as a split, a merge or a paste leaves it
        context.model.cells.changed.connect((_, { type, newValues }) =>
          queueMicrotask(() => this.changedCells(type === 'add' ? newValues : []))
        );
        context.model.sharedModel.awareness.on('change', ({ added }) => {
          if (added.length) {
            this.announce(); // a newcomer has not heard of it
          }
          this.takeTurns();
        });
      });
      context.saveState.connect((_, state) => {
        if (state === 'started') {
          this.vouch();
        }
      });
    }

    /** Another view of the notebook.
     * @param {Lab.Panel} panel */
    add(panel) {
      this.panels.add(panel);
      panel.disposed.connect(() => {
        this.feet.get(panel)?.dispose();
        for (const each of [this.panels, this.handled, this.looking, this.tops, this.feet]) {
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
        this.obey(panel, this.indexOf(panel, event.target), wish, run);
      });
      // JupyterLab's sanitizer leaves buttons that carry a command of its own
      const hold = /** @param {Event} event */ event => {
        const button = /** @type {Element} */ (event.target).closest?.('[data-commandlinker-command]');
        if (button && isAgents(this.cells[this.indexOf(panel, button)])) {
          event.stopPropagation();
          event.preventDefault();
        }
      };
      panel.node.addEventListener('click', hold, { capture: true });
      void this.context.ready.then(() => {
        panel.content.outerNode.addEventListener('scroll', () => this.scrolled(panel), { passive: true });
        this.fold();
      });
    }

    // -- the document

    get cells() {
      return this.context.isDisposed ? [] : [...this.context.model.cells];
    }

    /** @param {string} id */
    cell(id) {
      return this.cells.find(cell => cell.id === id);
    }

    /** The place of the cell that holds a node of a view.
     * @param {Lab.Panel} panel
     * @param {EventTarget | null} target */
    indexOf(panel, target) {
      const node = /** @type {Node | null} */ (target);
      return panel.content.widgets.findIndex(widget => widget.node.contains(node));
    }

    /** The cells of a run that are there, in the order of the notebook.
     * @param {Lab.Run} run */
    cellsOf(run) {
      return this.cells.filter(cell => run.held.has(cell.id));
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
      if (this.context.isDisposed || kernel === this.kernel) {
        return;
      }
      this.kernel = kernel;
      this.requests.clear();
      this.executed.clear();
      this.confined = undefined;
      if (!kernel) {
        return;
      }
      this.announce();
      this.attached = performance.now();
      setTimeout(() => this.takeTurns(), MEETING);
      kernel.anyMessage.connect((sender, { msg, direction }) => {
        if (sender !== this.kernel) {
          return;
        }
        if (direction === 'recv' && msg.channel === 'iopub') {
          this.hear(sender, msg);
        } else if (direction === 'send' && msg.header.msg_type === 'execute_request') {
          this.send(msg.header.msg_id, String(msg.metadata.cellId));
        }
      });
      const ended = () => {}; // it ended before it said what it is
      void kernel.info.then(info => {
        if (kernel === this.kernel) {
          this.confined = info.implementation === KEY;
          this.confineAll();
        }
      }, ended);
      void this.comeBack(kernel);
    }

    /** A cell has been sent to the kernel.
     * @param {string} request
     * @param {string} id */
    send(request, id) {
      this.executed.set(request, id);
      const cell = this.cell(id);
      const state = this.again.get(id);
      if (cell && state !== undefined) {
        this.again.delete(id);
        this.note(cell, { state }); // that it was to run again was for this once
      }
    }

    /** Learn what the kernel knows of the runs that the notebook or this browser names: the page was
     * reloaded, or the notebook closed, perhaps without having been saved.
     * @param {Lab.Kernel} kernel */
    async comeBack(kernel) {
      const noted = this.cells.map(noteOf).filter(note => note?.state).map(note => String(note?.run));
      const asked = recalled(kernel.id).filter(([, anchor]) => this.cell(anchor));
      const latest = new Map(asked.map(([run, anchor]) => [anchor, run]));
      const runs = [...new Set([...noted, ...latest.values()])];
      if (!runs.length) {
        return;
      }
      const reply = await this.ask({ op: 'known', runs });
      if (reply?.status !== 'ok' || kernel !== this.kernel || this.context.isDisposed) {
        return;
      }
      const told = new Map(Object.entries(/** @type {Record<string, Lab.Known>} */ (reply.runs)));
      for (const [id, { anchor, session, facts, cells }] of told) {
        const cell = this.cell(anchor);
        const note = noteOf(cell);
        const run = this.run(id);
        run.anchor = anchor;
        run.session = session;
        run.wrote = this.writes(run);
        const stale = GOING.has(facts.state) || note?.run !== id || note.state === 'working';
        if (stale && run.wrote) {
          this.sync(id);
        } else {
          for (const [each, source] of Object.entries(cells).filter(([each]) => this.cell(each))) {
            run.held.set(each, source);
          }
          const folded = factsOf(cell && this.headerOf(cell)?.data[MIME]).folded;
          learn({ ...factsOf(facts), folded });
        }
      }
      for (const [anchor, id] of latest) {
        if (!told.has(id)) {
          const run = this.run(id);
          run.anchor = anchor;
          this.lose(run);
        }
      }
      this.fold();
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
        if (tag.op === 'beat') {
          const facts = known.get(tag.run);
          if (facts) {
            facts.heard = performance.now();
          }
        } else if (this.owns(kernel, tag, request)) {
          if (!this.requests.has(request.msg_id)) {
            this.requests.set(request.msg_id, tag.run);
            kernel.registerMessageHook(request.msg_id, other => !(/** @type {any} */ (other.metadata?.[KEY])?.op));
          }
          this.take(tag, msg.content, request.session);
        }
      } else if (msg.header.msg_type === 'execute_input') {
        const cell = this.cell(this.executed.get(request.msg_id) ?? '');
        if (cell && isAgents(cell)) {
          cell.trusted = false; // JupyterLab trusts whatever the user has run; `vouch` sees to the file
        }
      } else if (DISPLAYS.test(msg.header.msg_type)) {
        const cell = this.cell(this.executed.get(request.msg_id) ?? '');
        if (cell && (isAgents(cell) || cell.sharedModel.getSource().startsWith(AGENT))) {
          this.distrust(cell, msg.content.data);
        }
      } else if (msg.header.msg_type === 'status' && msg.content.execution_state === 'idle') {
        const run = this.requests.get(request.msg_id);
        this.requests.delete(request.msg_id);
        if (run) {
          this.flush(this.run(run));
        }
        if (run && working(run)) {
          this.sync(run); // the server drops messages of a kernel that sends too many
        }
      }
    }

    /** Whether a run is this page's, or one that it goes on showing after a reload, or that of
     * somebody who works in the same document.
     * @param {Lab.Kernel} kernel
     * @param {Lab.Tag} tag
     * @param {Lab.Header} request */
    owns(kernel, tag, request) {
      const asked = request.session === kernel.clientId || this.sessions().has(request.session);
      const note = noteOf(this.cell(tag.anchor));
      const shown = this.runs.has(tag.run) || (note?.run === tag.run && note.state === 'working');
      return shown || (asked && this.cell(tag.anchor) !== undefined);
    }

    /** Tell the pages that share the document of this one. */
    announce() {
      const session = this.kernel?.clientId;
      this.context.model.sharedModel.awareness.setLocalStateField(KEY, { session });
    }

    /** The pages that have this document open, by their session with the kernel. A document is
     * shared if the server says so (jupyter-collaboration); else there is this page alone.
     * @returns {Map<string, number>} */
    sessions() {
      /** @type {Map<string, number>} */
      const sessions = new Map();
      for (const [page, state] of this.context.model.sharedModel.awareness.getStates()) {
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
      const sessions = this.sessions();
      const early = performance.now() - this.attached < MEETING;
      if (this.context.model.collaborative && early && run.session && !this.met.has(run.session)) {
        return false; // this page may only not have heard of the one that has asked
      }
      const writer = sessions.get(run.session) ?? Math.min(...sessions.values());
      return !sessions.size || writer === this.context.model.sharedModel.awareness.clientID;
    }

    /** A page has come or gone: go on with the runs that it wrote, if that is this page's now. */
    takeTurns() {
      for (const session of this.sessions().keys()) {
        this.met.add(session);
      }
      for (const run of this.context.isDisposed ? [] : this.runs.values()) {
        const writes = this.writes(run);
        if (writes && !run.wrote && this.isLatest(run)) {
          this.sync(run.id);
        }
        run.wrote = writes;
      }
    }

    /** Do what a message says, in its turn.
     * @param {Lab.Tag} tag
     * @param {Lab.Content} content
     * @param {string} session Of the page that asked for the run. */
    take(tag, content, session) {
      if (tag.op === 'recorded') {
        this.recorded(tag, content, session);
        return;
      }
      const run = this.run(tag.run);
      run.own ||= session === this.kernel?.clientId;
      run.session = session || run.session;
      if (known.get(run.id)?.state === 'lost') {
        return; // the last words of a kernel that is gone
      }
      if (!this.writes(run)) {
        this.watch(run, tag, content);
      } else if (run.waiting) {
        run.waiting.push([tag, content]);
      } else if (!run.wrote && run.sent) {
        this.sync(tag.run).waiting?.push([tag, content]); // it was another page's
      } else if (tag.sent === run.sent + 1) {
        run.sent = tag.sent;
        run.queue.push([tag, content]);
        if (document.hidden) {
          this.flush(run); // its timers are slow
        } else {
          run.timer ||= setTimeout(() => this.flush(run), GATHERED);
        }
      } else if (tag.sent > run.sent) {
        this.sync(tag.run).waiting?.push([tag, content]);
      }
      run.wrote = this.writes(run);
    }

    /** Follow a run that another page writes.
     * @param {Lab.Run} run
     * @param {Lab.Tag} tag
     * @param {Lab.Content} content */
    watch(run, tag, content) {
      run.sent = tag.sent;
      run.anchor = tag.anchor;
      if (tag.op === 'run') {
        learn(this.withFold(factsOf(content.data[MIME])));
      } else if (tag.op === 'cell') {
        run.held.set(tag.id, tag.first_line + content.data['text/plain']);
      }
      this.showFeet();
    }

    /** @param {string} id */
    run(id) {
      let run = this.runs.get(id);
      if (!run) {
        const none = { sent: 0, last: 0, queue: [], timer: 0, follows: false, waiting: null };
        const whose = { anchor: '', session: '', own: false, wrote: false };
        run = { id, ...whose, ...none, model: undefined, left: false, held: new Map() };
        this.runs.set(id, run);
      }
      return run;
    }

    /** Have no more of a run gathered, and return what was.
     * @param {Lab.Run} run */
    gathered(run) {
      clearTimeout(run.timer);
      const { queue } = run;
      run.timer = 0;
      run.queue = [];
      return queue;
    }

    /** Do what has been gathered. Cells that are new are inserted together, as far as they are.
     * @param {Lab.Run} run */
    flush(run) {
      const queue = this.gathered(run);
      if (this.context.isDisposed) {
        return;
      }
      const latest = this.latest(run);
      const following = [...this.panels].filter(panel => this.follows(panel, latest));
      /** @type {Map<string, Lab.CellState>} */
      const fresh = new Map();
      /** Where each cell was last written: only that is done.
       * @type {Map<string, number>} */
      const last = new Map();
      queue.forEach(([tag], i) => {
        if (tag.op === 'cell') {
          last.set(tag.id, i);
        }
      });
      for (const [i, [tag, content]] of queue.entries()) {
        if (tag.op === 'cell' && this.cell(tag.id) && last.get(tag.id) !== i) {
          continue;
        }
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
      this.givePlace(run);
      if (following.length && !run.follows) {
        run.follows = true;
        requestAnimationFrame(() => {
          run.follows = false;
          this.follow(run);
        });
      }
      this.showFeet();
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
          this.update(run, tag, content.data['text/plain']);
          break;
        case 'output':
          this.output(run, tag, content);
          break;
        case 'clear':
          this.codeCell(run, tag.id)?.outputs.clear(tag.wait);
          break;
      }
    }

    /** A code cell of a run, if it is still one.
     * @param {Lab.Run} run
     * @param {string} id */
    codeCell(run, id) {
      const cell = /** @type {Lab.CodeCell | undefined} */ (run.held.has(id) ? this.cell(id) : undefined);
      return cell?.outputs ? cell : undefined;
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
            this.lose(run);
          }
          for (const [tag, content] of waiting) {
            this.take(tag, content, run.session);
          }
        });
      }
      return run;
    }

    /** Bring the notebook up to what the kernel has sent of a run.
     * @param {Lab.Run} run
     * @param {Lab.Snapshot} snapshot */
    restore(run, snapshot) {
      this.gathered(run); // the snapshot holds it
      run.sent = snapshot.sent;
      run.wrote = true;
      this.header(run, { ...snapshot, op: 'run' }, snapshot.header);
      run.last = Math.max(run.last, noteOf(this.cell(snapshot.anchor))?.last ?? 0);
      const fresh = snapshot.cells.filter(cell => cell.index > run.last);
      for (const cell of snapshot.cells) {
        const model = this.cell(cell.id);
        if (model) {
          run.held.set(cell.id, cell.first_line + cell.source);
          this.write(run, model, cell.first_line + cell.source);
          this.fill(model, cell);
        }
      }
      this.insert(run, snapshot.anchor, fresh);
      this.givePlace(run);
    }

    /** Note that a run will never end: its kernel knows nothing of it.
     * @param {Lab.Run} run */
    lose(run) {
      this.gathered(run);
      run.waiting = null;
      const facts = { ...factsOf(known.get(run.id)), run: run.id, state: 'lost', doing: '' };
      learn(facts);
      const anchor = this.cell(run.anchor);
      const note = noteOf(anchor);
      if (anchor && this.writes(run) && (note?.run !== run.id || note.state === 'working')) {
        const stand = this.cellsOf(run).length ? '; its cells so far stand' : '';
        this.show(anchor, facts, `agent: lost, because its kernel is gone${stand}`);
        if (note?.run === run.id) {
          this.note(anchor, { state: 'lost' });
        }
      }
      this.rest(run);
      this.givePlace(run);
    }

    /** The kernel is gone, and with it its runs. */
    giveUp() {
      this.requests.clear();
      for (const run of this.runs.values()) {
        if (working(run.id)) {
          this.lose(run);
        }
      }
    }

    // -- the %%agent cell

    /** Show how a run is getting on; once it has begun, put it in the place of an earlier one.
     * @param {Lab.Run} run
     * @param {Lab.Tag} tag
     * @param {Lab.Bundle} data */
    header(run, tag, data) {
      const begun = tag.state !== 'starting' && tag.state !== 'unstarted';
      const going = GOING.has(tag.state);
      const first = going && !working(run.id);
      const facts = this.withFold(factsOf(data[MIME]));
      run.anchor = tag.anchor;
      learn(facts);
      const anchor = this.cell(tag.anchor);
      const before = noteOf(anchor);
      if (anchor) {
        run.model = anchor;
        if (begun && before?.run !== run.id) {
          this.remove(this.runs.get(before?.run ?? ''), run);
          this.note(anchor, { run: run.id, state: tag.state, digest: tag.digest, last: 0 });
        }
        this.show(anchor, facts, data['text/plain']);
        if (begun && !going) {
          this.note(anchor, { state: tag.state });
        }
      }
      if (!going) {
        this.rest(run);
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

    /** Keep what only this page knows: whether the cells are folded away.
     * @param {Lab.Facts} facts
     * @returns {Lab.Facts} */
    withFold(facts) {
      return { ...facts, folded: known.get(facts.run)?.folded ?? false };
    }

    /** The finished run stays as it is, and so does what is said of it: the kernel asked no model.
     * @param {Lab.Tag} tag
     * @param {Lab.Content} content
     * @param {string} session Of the page that ran the cell. */
    recorded(tag, content, session) {
      const anchor = this.cell(tag.anchor);
      if (anchor) {
        const before = this.headers.get(anchor.id);
        const told = known.get(tag.run) ?? (before?.run === tag.run ? { ...before, cells: 0 } : undefined);
        const facts = { ...factsOf(told), run: tag.run, state: tag.state };
        learn(facts);
        if (session === this.kernel?.clientId) {
          this.show(anchor, facts, content.data['text/plain']);
        }
      }
    }

    /** Whether no later run has taken a run's place.
     * @param {Lab.Run} run */
    isLatest(run) {
      const anchor = this.cell(run.anchor);
      const note = noteOf(anchor);
      return anchor !== undefined && (working(run.id) || note?.run === run.id);
    }

    /** Take away an earlier run, which is one undo, save for the cells that the user has edited.
     * @param {Lab.Run | undefined} run
     * @param {Lab.Run} next */
    remove(run, next) {
      if (!run) {
        return; // this kernel has not made its cells
      }
      const shared = this.context.model.sharedModel;
      const gone = new Set();
      this.silently(() => {
        for (const cell of this.cellsOf(run)) {
          const note = noteOf(cell);
          if (note && untouched(cell, note) && this.holds(run, cell)) {
            gone.add(cell.id);
          } else {
            // the user's now, but still text of the agent's
            cell.setMetadata(KEY, { id: cell.id, checksum: note?.checksum ?? '' });
          }
        }
      });
      this.keepPlace(next, gone);
      shared.transact(() => {
        for (let i = shared.cells.length - 1; i >= 0; i--) {
          if (gone.has(shared.cells[i].getId())) {
            shared.deleteCell(i);
          }
        }
      });
      run.held.clear();
    }

    /** Put an empty cell, which is not shown, where a run's first one will be: below those that it
     * replaces, so that an undo brings these back to where they were. Without it the document has
     * them below all that is inserted meanwhile.
     * @param {Lab.Run} run
     * @param {Set<string>} replaced */
    keepPlace(run, replaced) {
      const cells = this.cells;
      let at = cells.findIndex(cell => cell.id === run.anchor) + 1;
      if (replaced.has(cells[at]?.id)) {
        while (replaced.has(cells[at]?.id)) {
          at++;
        }
        const state = { id: placeOf(run.id), index: 0, type: 'raw', state: '', first_line: '', source: '', outputs: [] };
        this.silently(() => this.context.model.sharedModel.insertCells(at, [this.cellOf(run.id, state)]));
        queueMicrotask(() => this.fold());
      }
    }

    /** Take that cell away when the run has cells of its own, or will have none. The end of a run may
     * come together with its first cell, which needs its place all the same.
     * @param {Lab.Run} run */
    givePlace(run) {
      if (working(run.id) && !run.last) {
        return;
      }
      const index = this.cells.findIndex(cell => cell.id === placeOf(run.id));
      if (index >= 0) {
        this.silently(() => this.context.model.sharedModel.deleteCell(index));
      }
    }

    /** Whether a cell says what the kernel knows of it.
     * @param {Lab.Run} run
     * @param {Lab.Cell} cell */
    holds(run, cell) {
      return run.held.get(cell.id) === cell.sharedModel.getSource();
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
     * @param {Lab.Facts} facts
     * @param {string} text For who cannot draw it. */
    show(anchor, facts, text) {
      const outputs = /** @type {Lab.CodeCell} */ (anchor).outputs;
      if (!outputs) {
        return; // the user has made a Markdown cell of it
      }
      const data = { [MIME]: facts, 'text/plain': text };
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
     * @param {Lab.Run} run
     * @param {Lab.Tag} tag
     * @param {string} source */
    update(run, tag, source) {
      const cell = run.held.has(tag.id) ? this.cell(tag.id) : undefined;
      if (cell && !source && tag.state === 'done') {
        this.takeBack(run, cell);
      } else if (cell) {
        this.write(run, cell, tag.first_line + source);
        this.progress(cell, tag);
      }
    }

    /** The model's reply broke off, and half of one is none.
     * @param {Lab.Run} run
     * @param {Lab.Cell} cell */
    takeBack(run, cell) {
      const note = noteOf(cell);
      if (note && untouched(cell, note)) {
        run.held.delete(cell.id);
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
      states.forEach(state => {
        const cell = /** @type {Lab.Cell} */ (this.cell(state.id));
        run.held.set(cell.id, cell.sharedModel.getSource());
        if (state.type === 'markdown') {
          this.widgets(cell, widget => {
            widget.rendered = true;
          });
        }
        this.fill(cell, state);
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
        ? { ...cell, execution_count: state.count ?? null, outputs: [] }
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
          const before = note?.run === run ? (note.index ?? index) : index;
          if (before < index && before >= nearest) {
            nearest = before;
            best = i;
          }
        });
      }
      return best + 1;
    }

    /** Set a cell's source, unless the user has changed it.
     * @param {Lab.Run} run
     * @param {Lab.Cell} cell
     * @param {string} source */
    write(run, cell, source) {
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
      run.held.set(cell.id, source);
      if (cell.type === 'markdown') {
        void this.draw(run, cell);
      }
    }

    /** Draw Markdown as it grows: JupyterLab waits until it has not changed for a second.
     * @param {Lab.Run} run
     * @param {Lab.Cell} cell */
    async draw(run, cell) {
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
        this.follow(run); // it may have grown
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
     * @param {Lab.Run} run */
    rest(run) {
      for (const cell of this.cellsOf(run)) {
        this.progress(cell, { state: 'idle' });
      }
    }

    /** Bring a cell's outputs up to those that the kernel has sent. They come when the cell is there
     * and its trust is settled: a view follows the text of those streams only that are added to it.
     * @param {Lab.Cell} cell
     * @param {Lab.CellState} state */
    fill(cell, state) {
      const code = /** @type {Lab.CodeCell} */ (cell);
      if (state.type === 'code' && code.outputs) {
        const outputs = state.outputs.map(output => this.cleaned(output));
        for (const { data } of outputs) {
          this.distrust(code, data ?? {});
        }
        if (JSON.stringify(code.outputs.toJSON()) !== JSON.stringify(outputs)) {
          code.outputs.clear();
          for (const output of outputs) {
            code.outputs.add(output);
          }
        }
        this.progress(code, state);
      }
    }

    /** Add an output, or change one; a stream grows.
     * @param {Lab.Run} run
     * @param {Lab.Tag} tag
     * @param {Lab.Content} content */
    output(run, tag, content) {
      const cell = this.codeCell(run, tag.id);
      if (!cell) {
        return;
      }
      const output = this.cleaned(outputOf(tag, content));
      this.distrust(cell, output.data ?? {});
      if (output.output_type === 'stream' || tag.index >= cell.outputs.length) {
        cell.outputs.add(output);
      } else {
        cell.outputs.set(tag.index, output);
      }
    }

    // -- trust

    /** @param {unknown} html */
    sanitized(html) {
      const [panel] = this.panels;
      return panel?.content.rendermime.sanitizer.sanitize([html].flat().join('')) ?? '';
    }

    /** Bring HTML into the form that JupyterLab draws where nothing is trusted.
     * @param {Lab.OutputData} output
     * @returns {Lab.OutputData} */
    cleaned(output) {
      const html = output.data?.['text/html'];
      return html === undefined
        ? output
        : { ...output, data: { ...output.data, 'text/html': this.sanitized(html) } };
    }

    /** Have JupyterLab draw a cell's outputs with its sanitizer, now and when the notebook is opened
     * again, before it gets one that needs that.
     * @param {Lab.Cell} cell
     * @param {Record<string, unknown>} data */
    distrust(cell, data) {
      if (!isInert(data)) {
        cell.trusted = false;
        if (cell.getMetadata('trusted')) {
          this.silently(() => cell.setMetadata('trusted', false)); // by this the server signs
        }
      }
    }

    /** As the notebook is saved, let the server sign it as far as the agent's cells go: they need no
     * sanitizer when it is opened again. Here they stay as they are drawn. */
    vouch() {
      for (const cell of this.cells.filter(isAgents)) {
        const code = /** @type {Lab.CodeCell} */ (cell);
        if (code.outputs?.length) {
          const safe = code.outputs.toJSON().map((output, i) => this.settle(code, output, i));
          if (safe.every(Boolean) !== Boolean(cell.getMetadata('trusted'))) {
            this.silently(() => cell.setMetadata('trusted', safe.every(Boolean)));
          }
        }
      }
    }

    /** Keep an output's HTML in its sanitized form; tell whether the output is safe so.
     * @param {Lab.CodeCell} cell
     * @param {Lab.OutputData} output
     * @param {number} index */
    settle(cell, output, index) {
      if (!output.data) {
        return true;
      }
      const { 'text/html': html, ...rest } = output.data;
      const clean = html === undefined ? '' : this.sanitized(html);
      if (html !== undefined && clean !== html) {
        cell.outputs.set(index, this.cleaned(output));
      }
      // what a second pass would change, the first has not made safe
      return isInert(rest) && this.sanitized(clean) === clean && !clean.includes('data-commandlinker');
    }

    // -- the sandbox

    /** Give code of the sandbox's the line that keeps it there: the half of a cell that was split, a
     * copy from another notebook, a cell whose first line was deleted, a saved run.
     * @param {Lab.Cell} cell */
    confine(cell) {
      const source = cell.sharedModel.getSource();
      const begins = `${source}\n`.startsWith(SANDBOX);
      if (!this.confined && cell.type === 'code' && isConfined(cell) && source.trim() && !begins) {
        // one undo takes it back with what was done before it
        this.context.model.sharedModel.transact(() => cell.sharedModel.updateSource(0, 0, SANDBOX));
      }
    }

    /** Leave one first line in a cell that was merged of several.
     * @param {Lab.Cell} cell */
    mend(cell) {
      const source = cell.sharedModel.getSource();
      if (isAgents(cell) && source.startsWith(SANDBOX) && source.includes(`\n\n${SANDBOX}`)) {
        const mended = source.replaceAll(`\n\n${SANDBOX}`, '\n\n');
        this.context.model.sharedModel.transact(() => cell.sharedModel.setSource(mended));
      }
    }

    /** Do what is to be done at the last moment before a cell is sent.
     * @param {Lab.Cell} cell */
    prepare(cell) {
      const header = this.headerOf(cell)?.data[MIME];
      if (header) {
        this.headers.set(cell.id, factsOf(header));
      }
      this.confine(cell);
    }

    confineAll() {
      if (this.confined === false && !this.context.isDisposed) {
        for (const cell of this.cells) {
          this.confine(cell);
        }
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
      const cells = this.cellsOf(run).sort((a, b) => indexOf(a) - indexOf(b));
      return cells.at(-1) ?? this.cell(run.anchor);
    }

    /** Whether the end of a cell is on the screen.
     * @param {Lab.Panel} panel
     * @param {Lab.Cell} cell */
    sees(panel, cell) {
      const box = panel.content.widgets[this.cells.indexOf(cell)]?.node.getBoundingClientRect();
      const pane = panel.content.outerNode.getBoundingClientRect();
      return Boolean(box?.height) && box.bottom > pane.top && box.bottom <= pane.bottom + NEAR;
    }

    /** A view has been scrolled, by us or by whatever else: a jump from the table of contents is no
     * key, wheel or press in the view.
     * @param {Lab.Panel} panel */
    scrolled(panel) {
      const top = panel.content.outerNode.scrollTop;
      const before = this.tops.get(panel) ?? top;
      this.tops.set(panel, top);
      const run = [...this.runs.values()].find(each => working(each.id));
      const cell = run && this.latest(run);
      if (cell && top < before) {
        this.looking.set(panel, this.sees(panel, cell)); // we only ever scroll down
      }
      this.showFoot(panel);
    }

    /** Whether a view's user looks at the end of a run, and does nothing else.
     * @param {Lab.Panel} panel
     * @param {Lab.Cell | undefined} cell Its newest. */
    follows(panel, cell) {
      const focus = document.activeElement;
      const types = panel.node.contains(focus) && focus?.closest('.cm-content');
      // the empty cell that comes with Shift+Enter is nothing that anybody edits
      const edits = types && this.cells[this.indexOf(panel, focus)]?.sharedModel.getSource();
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
        const foot = this.feet.get(panel)?.node.offsetHeight ?? 0;
        const below = (box?.bottom ?? 0) - pane.getBoundingClientRect().bottom + foot;
        if (below > 0) {
          pane.scrollTop += below;
        }
      }
    }

    showFeet() {
      for (const panel of this.panels) {
        this.showFoot(panel);
      }
    }

    /** Show how a run is getting on, and its Stop, at the foot of a view where its own bar is out of
     * sight.
     * @param {Lab.Panel} panel */
    showFoot(panel) {
      const run = [...this.runs.values()].find(each => working(each.id) || rests(each.id));
      const foot = this.feet.get(panel);
      if (!run) {
        if (foot && !foot.isHidden) {
          foot.hide();
        }
      } else if (foot) {
        const index = this.cells.findIndex(cell => cell.id === run.anchor);
        const own = panel.content.widgets[index]?.node.querySelector(`.${BAR}`)?.getBoundingClientRect();
        const pane = panel.content.outerNode.getBoundingClientRect();
        const seen = own?.height && own.bottom > pane.top && own.top < pane.bottom;
        foot.about(run.id);
        foot.setHidden(Boolean(seen));
        if (!working(run.id)) {
          setTimeout(() => !this.context.isDisposed && this.showFeet(), REST);
        }
      } else if (panel.isAttached) {
        void Bars.then(({ Bar, Widget }) => {
          if (!this.feet.has(panel) && !panel.isDisposed) {
            const made = new Bar();
            made.addClass(FOOT);
            this.feet.set(panel, made);
            Widget.attach(made, panel.content.node);
            this.showFoot(panel);
          }
        });
      }
    }

    /** Fold the cells of runs away, or out again. */
    fold() {
      const hidden = new Set([...this.runs.keys()].map(placeOf));
      for (const run of this.runs.values()) {
        if (known.get(run.id)?.folded) {
          const answer = /^(done|recorded)$/.test(known.get(run.id)?.state ?? '') && this.latest(run);
          for (const cell of this.cellsOf(run).filter(each => this.holds(run, each))) {
            if (cell !== answer || cell.type !== 'markdown') {
              hidden.add(cell.id);
            }
          }
        }
      }
      this.cells.forEach(({ id }, i) => {
        const hide = hidden.has(id);
        for (const panel of this.panels) {
          const widget = panel.content.widgets[i];
          if (widget && (hide || this.hidden.has(id)) && widget.isHidden !== hide) {
            widget.setHidden(hide);
          }
        }
      });
      this.hidden = hidden;
    }

    /** What a bar's buttons ask for: of the cell that holds the bar, and of its run.
     * @param {Lab.Panel} panel
     * @param {number} index The cell's; -1 if none holds the bar.
     * @param {string} wish
     * @param {string} id The run's, as the bar has it. */
    obey(panel, index, wish, id) {
      const anchor = this.cells[index];
      const run = this.runs.get(id);
      if (wish === 'again') {
        void this.runAgain(panel, index, id);
      } else if (run && wish === 'stop' && working(id) && (index < 0 || run.anchor === anchor?.id)) {
        void this.kernel?.interrupt().catch(() => {});
      } else if (!run || run.anchor !== anchor?.id) {
        return; // the bar is not that run's
      } else if (wish === 'fold') {
        const facts = factsOf(known.get(id));
        facts.folded = !facts.folded;
        learn(facts);
        this.show(anchor, facts, this.headerOf(anchor)?.data['text/plain'] ?? '');
        this.fold();
      }
    }

    /** Run a %%agent cell, which the user sees.
     * @param {Lab.Panel} panel
     * @param {number} index
     * @param {string} run What its bar is about. */
    async runAgain(panel, index, run) {
      const anchor = this.cells[index];
      const widget = panel.content.widgets[index];
      if (!anchor?.sharedModel.getSource().startsWith(AGENT)) {
        return;
      }
      if (widget.inputHidden) {
        widget.inputHidden = false; // first see what it would be
        return;
      }
      if (!(await this.load())) {
        problems.set(run, 'Cannot run: this kernel has no jupyter_agent, see its log');
        redraw();
        return;
      }
      problems.delete(run);
      const now = this.cells.indexOf(anchor);
      if (now >= 0 && !panel.isDisposed) {
        this.again.set(anchor.id, noteOf(anchor)?.state ?? '');
        this.note(anchor, { state: 'again' });
        this.app.shell.activateById(panel.id);
        panel.content.deselectAll();
        panel.content.activeCellIndex = now;
        void this.app.commands.execute('notebook:run-cell');
      }
    }

    /** Have the kernel load the magics, which one that was restarted has not; tell if it has them. */
    async load() {
      if (!this.kernel || this.confined) {
        return true; // JupyterLab asks for a kernel; the agent kernel needs no magics
      }
      const code = '%load_ext jupyter_agent';
      try {
        const request = { code, silent: true, store_history: false, allow_stdin: false };
        const reply = await this.kernel.requestExecute(request).done;
        return reply.content.status === 'ok';
      } catch {
        return false; // the kernel died
      }
    }

    /** Cells have come, gone or been moved.
     * @param {Lab.Cell[]} fresh */
    changedCells(fresh) {
      if (this.context.isDisposed) {
        return;
      }
      for (const cell of fresh) {
        this.mend(cell);
      }
      this.confineAll();
      for (const run of this.runs.values()) {
        const anchor = this.cell(run.anchor);
        if (anchor && run.model && anchor !== run.model && this.isLatest(run)) {
          this.goOn(run, anchor);
        }
      }
      this.countCells();
    }

    /** Go on with a run whose %%agent cell was moved or has come back, with an undo or a checkpoint,
     * as a page does that comes back.
     * @param {Lab.Run} run
     * @param {Lab.Cell} anchor */
    goOn(run, anchor) {
      const note = noteOf(anchor);
      run.model = anchor;
      run.left = false;
      if (this.writes(run)) {
        run.last = note?.run === run.id ? (note.last ?? 0) : 0;
        run.held.clear();
        this.sync(run.id);
      }
    }

    /** Count the cells of runs that are there. */
    countCells() {
      let changed = false;
      for (const run of this.runs.values()) {
        const facts = known.get(run.id);
        const there = this.cellsOf(run).length;
        if (facts && facts.there !== there) {
          facts.there = there;
          changed = true;
        }
      }
      if (changed) {
        redraw();
      }
    }

    /** The notebook has changed: tell the kernel, once the user pauses, what became of cells. */
    changed() {
      this.timer ||= setTimeout(() => this.tell(), PAUSE);
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
      this.confineAll();
      const cells = new Map(this.cells.map(cell => [cell.id, cell]));
      for (const run of [...this.runs.values()].filter(each => this.writes(each))) {
        if (working(run.id) && run.model && !cells.has(run.anchor) && !run.left) {
          run.left = true; // nobody would see what it does, or costs
          void this.kernel?.interrupt().catch(() => {});
        }
        for (const [id, before] of run.held) {
          const source = cells.get(id)?.sharedModel.getSource() ?? null;
          if (source !== before) {
            run.held.set(id, source);
            const op = source === null ? 'delete' : 'edit';
            void this.ask({ op, run: run.id, id, ...(source !== null && { source }) });
          }
        }
      }
      this.countCells();
      this.fold();
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

  const BAR = 'jp-JupyterAgentBar';
  const FOOT = 'jp-mod-foot';
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
.jp-JupyterAgentBar-text { flex: 1 1 0; min-width: 0; display: flex; flex-wrap: wrap; gap: 0 8px; }
.jp-JupyterAgentBar-buttons { display: flex; flex-wrap: wrap; gap: 4px 8px; }
.jp-JupyterAgentBar-doing { font-weight: 600; overflow-wrap: anywhere; }
.jp-JupyterAgentBar-facts { color: var(--jp-content-font-color2); font-variant-numeric: tabular-nums; }
.jp-JupyterAgentBar-where {
  flex: 1 1 0; min-width: 0; overflow: hidden; text-overflow: ellipsis; white-space: nowrap;
  color: var(--jp-content-font-color2);
}
.jp-JupyterAgentBar-left { font-variant-numeric: tabular-nums; }
.jp-JupyterAgentBar.jp-mod-foot {
  position: absolute; left: 0; right: 0; bottom: 0; z-index: 20; /* above the tools of a cell */
  border-top: 1px solid var(--jp-border-color1);
}
.jp-JupyterAgentBar button[aria-disabled='true'] { opacity: 0.5; cursor: default; }
.jp-JupyterAgentBar[data-state='failed'] .jp-JupyterAgentBar-doing {
  flex: 0 1 auto; max-width: 100%; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; /* in full below */
}
@container (max-width: 600px) { /* where it runs is on the bar's title then */
  .jp-JupyterAgentBar-where { display: none; }
}
@container (max-width: 400px) { /* the buttons on a line of their own */
  .jp-JupyterAgentBar-text { display: block; flex-basis: 100%; }
  .jp-JupyterAgentBar-text > * { margin-right: 8px; }
  .jp-JupyterAgentBar[data-state='failed'] .jp-JupyterAgentBar-doing { display: block; }
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

  /** Why buttons could not do what they are for, by the run of their bar.
   * @type {Map<string, string>} */
  const problems = new Map();

  const STATES = /** @type {Record<string, string>} */ ({
    done: 'Done',
    stopped: 'Stopped',
    failed: 'Failed',
    unstarted: 'Not started',
    lost: 'Lost: its kernel is gone',
    recorded: 'Done, shown as recorded: no model was asked',
    claimed: 'Shown as in the file, not done here: no model was asked'
  });
  const DOING = /** @type {Record<string, string>} */ ({ thinking: 'Thinking', writing: 'Writing', running: 'Running' });

  /** Text that stays on one line.
   * @param {string} text */
  function whole(text) {
    const node = document.createElement('span');
    node.style.whiteSpace = 'nowrap';
    node.textContent = text;
    return node;
  }

  /** Make the widget that draws a header: a slim bar with what the run does, and its buttons.
   * @param {typeof Lab.Widget} Widget JupyterLab's own. */
  function barClass(Widget) {
    return class extends Widget {
      constructor() {
        super();
        this.addClass('jp-JupyterAgentBar');
        this.node.setAttribute('role', 'group');
        this.node.setAttribute('aria-label', 'Agent run');
        this.saved = factsOf(null);
        bars.add(this);
        this.ticking = 0;
        this.resting = 0;
        /** @param {string} name
         * @param {HTMLElement} inside */
        const span = (name, inside) => {
          const node = document.createElement('span');
          node.className = `jp-JupyterAgentBar-${name}`;
          inside.append(node);
          return node;
        };
        const text = span('text', this.node);
        this.buttons = span('buttons', this.node);
        this.doing = span('doing', text);
        this.doing.setAttribute('role', 'status');
        this.doing.setAttribute('aria-live', 'polite'); // as the role implies; not all readers know
        this.left = span('left', text); // beside what a screen reader is told: it changes each second
        this.numbers = span('facts', text);
        this.where = span('where', text);
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
        button.addEventListener('click', event => {
          if (wish === 'stop' && event.detail > 1) {
            return; // the second click of two on Run again, which was in its place
          }
          const detail = { wish, run: this.facts.run };
          this.node.dispatchEvent(new CustomEvent(EVENT, { bubbles: true, detail }));
        });
        button.addEventListener('keydown', event => {
          if (event.key === 'Enter' || event.key === ' ') {
            event.stopPropagation(); // it presses the button, and is not the notebook's
          }
        });
        this.buttons.append(button);
        return button;
      }

      dispose() {
        bars.delete(this);
        super.dispose();
      }

      /** @param {{data: Record<string, any>}} model */
      async renderModel(model) {
        this.saved = factsOf(model.data[MIME]);
        this.draw();
      }

      /** Be about a run.
       * @param {string} run */
      about(run) {
        if (this.saved.run !== run) {
          this.saved = { ...factsOf(null), run };
          this.draw();
        }
      }

      get facts() {
        return known.get(this.saved.run) ?? this.saved;
      }

      /** What the run does, or how it ended. */
      get says() {
        const { run, state, doing, waiting, why } = this.facts;
        if (problems.has(run)) {
          return problems.get(run) ?? '';
        }
        const facts = known.get(run);
        if (!facts) {
          return 'From the file, not of this kernel:';
        }
        if (!working(run)) {
          const ended = Object.hasOwn(STATES, state) ? STATES[state] : 'Not finished';
          const model = `${this.facts.model}: `; // the bar says it at its end
          return why ? `${ended}: ${why.startsWith(model) ? why.slice(model.length) : why}` : ended;
        }
        if (performance.now() - facts.heard > SILENCE) {
          return 'The kernel does not answer…';
        }
        if (this.node.closest('.jp-NotebookPanel')?.querySelector('.jp-Stdin-input')) {
          return 'Waiting for your answer…'; // its kernel asks about nothing but what it runs
        }
        return `${waiting || (Object.hasOwn(DOING, doing ?? '') ? DOING[doing ?? ''] : 'Working')}…`;
      }

      draw() {
        const { run, state, model, sandbox, cells: all, folded } = this.facts;
        const facts = known.get(run);
        const unknown = !facts;
        const cells = facts?.there ?? all;
        const going = working(run);
        const ended = !going && rests(run);
        const focused = /** @type {HTMLElement | null} */ (document.activeElement);
        this.node.dataset.state = unknown ? 'file' : state;
        this.count();
        this.where.textContent = [model, sandbox].filter(Boolean).join(' · ');
        this.node.title = [this.says, this.where.textContent].filter(Boolean).join('\n');
        // where Stop was nothing else answers yet
        this.stop.hidden = !going && !ended;
        this.stop.setAttribute('aria-disabled', String(ended));
        if (ended) {
          this.resting ||= setTimeout(() => {
            this.resting = 0;
            this.draw();
          }, REST);
        }
        this.again.hidden = going || ended || (state === 'unstarted' && !unknown);
        const plural = cells === 1 ? '' : 's';
        this.folder.hidden = unknown || going || ended || !cells;
        this.folder.textContent = `${folded ? '▸' : '▾'} ${cells} cell${plural}`;
        this.folder.title = folded ? "Show the agent's cells" : "Fold the agent's cells away";
        this.folder.setAttribute('aria-expanded', String(!folded));
        if (focused?.hidden && this.node.contains(focused)) {
          (going ? this.stop : this.again).focus(); // the keyboard stays in the bar
        }
        this.tick();
      }

      count() {
        const { run, step, tokens, estimated, waiting, wait } = this.facts;
        const said = this.says;
        if (this.doing.textContent !== said) {
          this.doing.textContent = said; // a screen reader says it once
        }
        const facts = known.get(run);
        if (waiting && wait && facts) {
          const left = Math.max(0, Math.ceil(wait - (performance.now() - facts.told) / 1000));
          this.left.textContent = `in ${left} s`;
        }
        this.left.hidden = !(working(run) && waiting && wait);
        const since = working(run) ? known.get(run)?.since : undefined;
        const seconds = since === undefined ? this.facts.seconds : (performance.now() - since) / 1000;
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
        const text = parts.join(' · ');
        if (this.numbers.textContent !== text) {
          // a line breaks between two of them
          this.numbers.replaceChildren(...parts.flatMap((part, i) => (i ? [' · ', whole(part)] : [whole(part)])));
        }
      }

      /** Count the seconds while a run goes on and can be seen. */
      tick() {
        clearInterval(this.ticking);
        if (this.isAttached && working(this.facts.run)) {
          this.ticking = setInterval(() => this.count(), 500);
        }
      }

      onAfterAttach() {
        this.draw();
      }

      onBeforeDetach() {
        clearInterval(this.ticking);
        clearTimeout(this.resting);
        this.resting = 0;
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
      void actions().then(({ executionScheduled }) => {
        executionScheduled.connect((_, { notebook, cell }) => {
          for (const each of notebooks.values()) {
            if ([...each.panels].some(panel => panel.content === notebook)) {
              each.prepare(cell.model);
            }
          }
        });
      });
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

  /** A module of JupyterLab's.
   * @param {string} name */
  async function load(name) {
    return (await Object.values(shared[name])[0].get())();
  }

  /** @returns {Promise<{executionScheduled: Lab.Signal<unknown, Lab.Scheduled>}>} */
  async function actions() {
    return (await load('@jupyterlab/notebook')).NotebookActions;
  }

  /** @returns {Promise<{Bar: new () => Lab.Bar, Widget: typeof Lab.Widget}>} */
  async function loadBars() {
    const { Widget } = await load('@lumino/widgets');
    return { Bar: barClass(Widget), Widget };
  }

  /** What draws headers; it is there once JupyterLab has loaded this file.
   * @type {Promise<{Bar: new () => Lab.Bar, Widget: typeof Lab.Widget}>} */
  let Bars;

  /** The renderer of headers, for every notebook. */
  async function mimeExtension() {
    const { Bar } = await Bars;
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
      Bars = loadBars();
    },
    /** @param {string} name */
    get: async name => {
      const loaded = await modules[name]();
      return () => ({ __esModule: true, default: loaded });
    }
  };
})();
