// @ts-check
/* The runs of one notebook: do what the kernel's messages say.
 *
 * The kernel publishes a run as ordinary display messages, which any front end shows below the
 * %%agent cell. Each carries in its own metadata what it means for the notebook (`Lab.Tag`). Here
 * those messages are taken out of that cell's outputs and done instead: cells are inserted,
 * written, and given their outputs. A message that was lost shows as a gap in their count; the
 * page then asks the kernel for the whole run. docs/live-cells.md has the protocol.
 *
 * Whatever a message says, this code never runs anything, and writes no cell but those it made
 * and the user has not touched since. What a file says (notes in the metadata of cells, saved
 * outputs) may be anybody's: a cell is hidden, removed or written only if the kernel told this
 * page of it (`Lab.Run.held`), and a bar that no kernel has vouched for says so (`known`). What
 * the agent wrote is drawn untrusted. */

import { Asking } from './asking.js';
import { PRESSED } from './bar.js';
import { headerOf, NotebookCells, showHeader } from './cells.js';
import { Confinement } from './confinement.js';
import { Keeper } from './keep.js';
import { ask, interrupt, loadMagics } from './kernel.js';
import { Looks } from './looks.js';
import { DISPLAYS, factsOf, KEY, MIME, sortMessages } from './messages.js';
import { asksAgent, isAgents, noteOf } from './notes.js';
import { notifyOfQuestion } from './notifications.js';
import { Pages } from './pages.js';
import { noteBeat, isGoing, isWorking, known, learn, problems, recall, redraw, remember, withFold } from './runs.js';
import { Trust } from './trust.js';
import { Views } from './views.js';
import { Writer } from './writer.js';

// milliseconds in which messages are gathered, to change the document once; by a timer, as
// JupyterLab 4.2 shows a cell late that is inserted in an animation frame (`Views.drawInserted`)
const GATHER_MS = 8;
const EDIT_PAUSE_MS = 250; // without a key before an edit is told
const QUESTION_MS = 500; // in which the question comes that a request for input is about

/** The runs of one notebook, however many views of it are open. */
export class LiveNotebook {
  /**
   * @param {Lab.App} app
   * @param {Lab.Context} context
   * @param {Promise<Lab.BarKit>} kit */
  constructor(app, context, kit) {
    this.app = app;
    this.context = context;
    /** @type {Lab.Kernel | null} */
    this.kernel = null;
    /** @type {Map<string, Lab.Run>} */
    this.runs = new Map();
    this.cells = new NotebookCells(context);
    this.views = new Views(this.cells, this.runs, kit);
    this.trust = new Trust(this.cells, html => this.views.sanitize(html));
    this.asking = new Asking(this.cells, this.views, kit);
    this.writer = new Writer(this.cells, this.trust, this.views);
    this.confinement = new Confinement(this.cells);
    this.keeper = new Keeper(this.cells);
    this.looks = new Looks(this.cells, this.views, this.confinement);
    this.pages = new Pages(context, () => this.takeTurns());
    /** The requests that runs answer, and those runs.
     * @type {Map<string, string>} */
    this.requests = new Map();
    /** The cells that requests of this page run.
     * @type {Map<string, string>} */
    this.executed = new Map();
    /** The cell of the user's own that this page was the last to run in this kernel, and the one that
     * was the last to fail; and what they held.
     * @type {{run: Lab.Ran | undefined, failed: Lab.Ran | undefined}} */
    this.last = { run: undefined, failed: undefined };
    this.timer = 0;
    /** What the headers of cells said that are to run, before JupyterLab takes them away.
     * @type {Map<string, Lab.Facts>} */
    this.headers = new Map();
    /** Cells that are to run whatever they hold, and how their runs stood.
     * @type {Map<string, string>} */
    this.again = new Map();
    const session = context.sessionContext;
    const attach = () => this.attach(session.session?.kernel ?? null);
    session.kernelChanged.connect(() => void context.ready.then(attach));
    session.statusChanged.connect((_, status) => {
      if (/restarting|dead|terminating/.test(status)) {
        this.loseAll();
      }
    });
    void context.ready.then(() => {
      attach();
      context.model.contentChanged.connect(() => this.changed());
      context.model.metadataChanged.connect(() => app.commands.notifyCommandChanged('jupyter-agent:ask'));
      this.looks.dressAll();
      // once the document is as a split, a merge or a paste leaves it
      context.model.cells.changed.connect((_, { type, newValues }) =>
        queueMicrotask(() => this.changedCells(type === 'add' ? newValues : []))
      );
      this.pages.listen();
    });
    context.saveState.connect((_, state) => {
      if (state === 'started') {
        this.trust.markSafeCells();
      }
    });
  }

  /** Another view of the notebook.
   * @param {Lab.Panel} panel */
  add(panel) {
    this.views.add(panel);
    this.asking.add(panel);
    void this.context.ready.then(() => this.looks.dressAll());
    panel.node.addEventListener(PRESSED, event => {
      const { action, run } = /** @type {CustomEvent<{action: string, run: string}>} */ (event).detail;
      this.press(panel, this.views.indexOf(panel, event.target), action, run);
    });
    // JupyterLab's sanitizer leaves buttons that carry a command of its own
    const hold = /** @param {Event} event */ event => {
      const button = /** @type {Element} */ (event.target).closest?.('[data-commandlinker-command]');
      if (button && isAgents(this.cells.all[this.views.indexOf(panel, button)])) {
        event.stopPropagation();
        event.preventDefault();
      }
    };
    panel.node.addEventListener('click', hold, { capture: true });
  }

  /** @param {string} id */
  run(id) {
    let run = this.runs.get(id);
    if (!run) {
      const none = { sent: 0, last: 0, queue: [], timer: 0, waiting: null };
      const whose = { anchor: '', session: '', own: false, wrote: false };
      run = { id, ...whose, ...none, model: undefined, left: false, held: new Map(), kept: new Set() };
      this.runs.set(id, run);
    }
    return run;
  }

  // -- the kernel

  /** Listen to a kernel.
   * @param {Lab.Kernel | null} kernel */
  attach(kernel) {
    if (this.cells.closed || kernel === this.kernel) {
      return;
    }
    this.kernel = kernel;
    this.asking.listenTo(kernel);
    this.requests.clear();
    this.executed.clear();
    this.last = { run: undefined, failed: undefined };
    this.confinement.byKernel = undefined;
    this.pages.session = kernel?.clientId;
    if (!kernel) {
      return;
    }
    this.pages.arrive();
    kernel.anyMessage.connect((sender, { msg, direction }) => {
      if (sender !== this.kernel) {
        return;
      }
      if (direction === 'recv' && msg.channel === 'iopub') {
        this.hear(sender, msg);
      } else if (direction === 'recv' && msg.header.msg_type === 'input_request') {
        this.hearQuestion();
      } else if (direction === 'send' && msg.header.msg_type === 'execute_request') {
        this.sent(msg.header.msg_id, String(msg.metadata.cellId));
      }
      this.asking.hear(msg);
      if (direction === 'recv' && msg.header.msg_type === 'input_request') {
        this.expectQuestion(msg);
      }
    });
    const ended = () => {}; // it ended before it said what it is
    void kernel.info.then(info => {
      if (kernel === this.kernel) {
        this.confinement.byKernel = info.implementation === KEY;
        this.confinement.confineAll();
        this.app.commands.notifyCommandChanged('jupyter-agent:ask');
      }
    }, ended);
    void this.catchUp(kernel);
  }

  /** Do what is to be done at the last moment before a cell is sent.
   * @param {Lab.Cell} cell */
  prepare(cell) {
    const header = headerOf(cell)?.[MIME];
    if (header) {
      this.headers.set(cell.id, factsOf(header));
    }
    this.confinement.confine(cell);
    this.keeper.announce(cell, true);
  }

  /** A cell has been sent to the kernel.
   * @param {string} request
   * @param {string} id */
  sent(request, id) {
    this.executed.set(request, id);
    const cell = this.cells.find(id);
    if (cell && !isAgents(cell) && !/^\s*%{1,2}(agent|sandbox)\b/.test(cell.sharedModel.getSource())) {
      this.last.run = { id, source: cell.sharedModel.getSource(), request };
    }
    const state = this.again.get(id);
    if (cell) {
      this.keeper.announce(cell, false);
    }
    if (cell && noteOf(cell)?.count) {
      this.cells.note(cell, { count: 0 }); // the next is the kernel's
    }
    if (cell && state !== undefined) {
      this.again.delete(id);
      this.cells.note(cell, { state }); // that it was to run again was for this once
    }
  }

  /** Whether the kernel's last cell of the user's own is this one, as it stands.
   * @param {Lab.Cell} cell */
  isLastRun(cell) {
    return this.last.run?.id === cell.id && this.last.run.source === cell.sharedModel.getSource();
  }

  /** Whether the kernel's last error is of this cell, as it stands.
   * @param {Lab.Cell} cell */
  isLastFailed(cell) {
    return this.last.failed?.id === cell.id && this.last.failed.source === cell.sharedModel.getSource();
  }

  /** Whether its cells are in Python. */
  get isPython() {
    return !this.cells.closed && this.context.model.defaultKernelLanguage === 'python';
  }

  /** The kernel asks the user, about nothing but what it runs. */
  hearQuestion() {
    const run = [...this.runs.values()].find(each => each.own && isWorking(each.id));
    if (run) {
      notifyOfQuestion(run.id);
    }
  }

  /** @param {Lab.Kernel} kernel
   * @param {Lab.Message} msg */
  hear(kernel, msg) {
    if (this.cells.closed) {
      return;
    }
    const request = msg.parent_header;
    const tag = /** @type {Lab.Tag | undefined} */ (msg.metadata?.[KEY]);
    if (tag?.op === 'ask' || tag?.op === 'answered') {
      this.hearOfQuestion(kernel, tag, msg);
    } else if (tag?.op && typeof tag.run === 'string') {
      this.hearOfRun(kernel, tag, msg);
    } else if (msg.header.msg_type === 'execute_input') {
      const cell = this.cells.find(this.executed.get(request.msg_id) ?? '');
      if (cell && isAgents(cell)) {
        cell.trusted = false; // JupyterLab trusts whatever the user has run; a save sees to the file
      }
    } else if (msg.header.msg_type === 'error' && this.last.run?.request === request.msg_id) {
      this.last.failed = this.last.run;
    } else if (DISPLAYS.test(msg.header.msg_type)) {
      const cell = this.cells.find(this.executed.get(request.msg_id) ?? '');
      if (cell && (isAgents(cell) || asksAgent(cell))) {
        this.trust.distrust(cell, msg.content.data);
      }
    } else if (msg.header.msg_type === 'status' && msg.content.execution_state === 'idle') {
      const run = this.requests.get(request.msg_id);
      this.requests.delete(request.msg_id);
      if (run) {
        this.flush(this.run(run));
      }
      if (run && isWorking(run)) {
        this.sync(run); // the server drops messages of a kernel that sends too many
      }
    }
  }

  /** The kernel asks the user, or asks no more.
   * @param {Lab.Kernel} kernel
   * @param {Lab.Tag} tag
   * @param {Lab.Message} msg */
  hearOfQuestion(kernel, tag, msg) {
    const run = this.runs.get(tag.run);
    if (!this.owns(kernel, tag, msg.parent_header) || (run && !this.pages.writes(run))) {
      return;
    }
    if (run) {
      this.flush(run); // the cell first
    }
    if (tag.op === 'ask') {
      // the kernel's request goes to the page that asked for the run: perhaps this one, before a reload
      const again = run !== undefined && run.session !== this.pages.session;
      this.asking.ask(/** @type {Lab.Question} */ (/** @type {unknown} */ (tag)), { again });
    } else {
      this.asking.over();
    }
  }

  /** A run waits for input: fetch what it asks, if that has not come.
   * @param {Lab.Message} request */
  expectQuestion(request) {
    const run = this.requests.get(request.parent_header.msg_id) ?? '';
    setTimeout(() => {
      if (isWorking(run) && this.asking.request === request && !this.asking.open) {
        this.sync(run);
      }
    }, QUESTION_MS);
  }

  /** @param {Lab.Kernel} kernel
   * @param {Lab.Tag} tag
   * @param {Lab.Message} msg */
  hearOfRun(kernel, tag, msg) {
    const request = msg.parent_header;
    if (tag.op === 'beat') {
      noteBeat(tag.run, tag.used);
    } else if (this.owns(kernel, tag, request)) {
      if (!this.requests.has(request.msg_id)) {
        this.requests.set(request.msg_id, tag.run);
        // JupyterLab does not add a message of a run to the %%agent cell's outputs
        kernel.registerMessageHook(request.msg_id, other => !(/** @type {any} */ (other.metadata?.[KEY])?.op));
      }
      this.take(tag, msg.content, request.session);
    }
  }

  /** Whether a run is this page's, or one that it goes on showing after a reload, or that of
   * somebody who works in the same document.
   * @param {Lab.Kernel} kernel
   * @param {Lab.Tag} tag
   * @param {Lab.Header} request */
  owns(kernel, tag, request) {
    const asked = request.session === kernel.clientId || this.pages.sessions().has(request.session);
    const note = noteOf(this.cells.find(tag.anchor));
    const shown = this.runs.has(tag.run) || (note?.run === tag.run && note.state === 'working');
    return shown || (asked && this.cells.find(tag.anchor) !== undefined);
  }

  // -- messages of a run

  /** Do what a message says, in its turn.
   * @param {Lab.Tag} tag
   * @param {Lab.Content} content
   * @param {string} session Of the page that asked for the run. */
  take(tag, content, session) {
    if (tag.op === 'recorded') {
      this.showRecorded(tag, content, session);
      return;
    }
    if (tag.op === 'keep' || tag.op === 'offer') {
      this.obey(tag, session);
      return;
    }
    const run = this.run(tag.run);
    run.own ||= session === this.kernel?.clientId;
    run.session = session || run.session;
    if (known.get(run.id)?.state === 'lost') {
      return; // the last words of a kernel that is gone
    }
    if (!this.pages.writes(run)) {
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
        run.timer ||= setTimeout(() => this.flush(run), GATHER_MS);
      }
    } else if (tag.sent > run.sent) {
      this.sync(tag.run).waiting?.push([tag, content]);
    }
    run.wrote = this.pages.writes(run);
  }

  /** Do what a command of this page's user says about a run that has ended.
   * @param {Lab.Tag} tag
   * @param {string} session Of the page that ran the command. */
  obey(tag, session) {
    const run = this.runs.get(tag.run);
    if (run && session === this.kernel?.clientId) {
      this.flush(run);
      if (tag.op === 'keep') {
        void this.keep(run);
      } else {
        this.keeper.offer(run, tag.text);
      }
    }
  }

  /** Follow a run that another page writes.
   * @param {Lab.Run} run
   * @param {Lab.Tag} tag
   * @param {Lab.Content} content */
  watch(run, tag, content) {
    run.sent = tag.sent;
    run.anchor = tag.anchor;
    if (tag.op === 'run') {
      learn(withFold(factsOf(content.data[MIME])));
    } else if (tag.op === 'cell') {
      run.held.set(tag.id, tag.first_line + content.data['text/plain']);
    }
    this.views.showFeet();
  }

  /** Gather no more of a run for now, and return what was gathered.
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
    if (this.cells.closed) {
      return;
    }
    this.views.followed(run, () => {
      const isThere = /** @param {string} id */ id => this.cells.find(id) !== undefined;
      const { cells, others } = sortMessages(queue, { last: run.last, isThere });
      for (const [tag, content] of others) {
        this.apply(run, tag, content);
      }
      if (cells.length) {
        this.writer.insert(run, queue[0][0].anchor, cells);
      }
      this.writer.givePlace(run);
    });
  }

  /** @param {Lab.Run} run
   * @param {Lab.Tag} tag
   * @param {Lab.Content} content */
  apply(run, tag, content) {
    switch (tag.op) {
      case 'run':
        this.showRun(run, tag, content.data);
        break;
      case 'cell':
        this.writer.update(run, tag, content.data['text/plain']);
        break;
      case 'output':
        this.writer.addOutput(run, tag, content);
        break;
      case 'clear':
        this.writer.clearOutputs(run, tag);
        break;
    }
  }

  // -- a run that was missed, or lost

  /** Learn what the kernel knows of the runs that the notebook or this browser names: the page was
   * reloaded, or the notebook closed, perhaps without having been saved.
   * @param {Lab.Kernel} kernel */
  async catchUp(kernel) {
    const noted = this.cells.all.map(noteOf).filter(note => note?.state).map(note => String(note?.run));
    const asked = recall(kernel.id).filter(([, anchor]) => this.cells.find(anchor));
    const latest = new Map(asked.map(([run, anchor]) => [anchor, run]));
    const runs = [...new Set([...noted, ...latest.values()])];
    if (!runs.length) {
      return;
    }
    const reply = await ask(this.kernel, { op: 'known', runs });
    if (reply?.status !== 'ok' || kernel !== this.kernel || this.cells.closed) {
      return;
    }
    const told = new Map(Object.entries(/** @type {Record<string, Lab.Known>} */ (reply.runs)));
    for (const [id, { anchor, session, facts, cells, deleted }] of told) {
      const cell = this.cells.find(anchor);
      const note = noteOf(cell);
      const run = this.run(id);
      run.anchor = anchor;
      run.session = session;
      run.wrote = this.pages.writes(run);
      for (const each of deleted.filter(each => this.cells.find(each))) {
        run.held.set(each, null); // not saved before the reload: the cell is back, and `tell` says so
      }
      const stale = isGoing(facts.state) || note?.run !== id || note.state === 'working';
      if (stale && run.wrote) {
        this.sync(id);
      } else {
        for (const [each, source] of Object.entries(cells).filter(([each]) => this.cells.find(each))) {
          run.held.set(each, source);
        }
        const folded = factsOf(cell && headerOf(cell)?.[MIME]).folded;
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
    this.changed();
    this.views.fold();
  }

  /** A page has come or gone: go on with the runs that it wrote, if that is this page's now. */
  takeTurns() {
    for (const run of this.cells.closed ? [] : this.runs.values()) {
      const writes = this.pages.writes(run);
      if (writes && !run.wrote && this.isLatest(run)) {
        this.sync(run.id);
      }
      run.wrote = writes;
    }
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
      void ask(kernel, { op: 'sync', run: id }).then(reply => {
        if (run.waiting !== waiting || kernel !== this.kernel || this.cells.closed) {
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
    this.showRun(run, { ...snapshot, op: 'run' }, snapshot.header);
    run.last = Math.max(run.last, noteOf(this.cells.find(snapshot.anchor))?.last ?? 0);
    const fresh = snapshot.cells.filter(cell => cell.index > run.last);
    for (const cell of snapshot.cells) {
      this.writer.restore(run, cell);
    }
    this.writer.insert(run, snapshot.anchor, fresh);
    this.writer.givePlace(run);
    if (snapshot.asks) {
      this.asking.ask(snapshot.asks, { again: true });
    }
  }

  /** Note that a run will never end: its kernel knows nothing of it.
   * @param {Lab.Run} run */
  lose(run) {
    this.gathered(run);
    run.waiting = null;
    const facts = { ...factsOf(known.get(run.id)), run: run.id, state: 'lost', doing: '' };
    learn(facts);
    const anchor = this.cells.find(run.anchor);
    const note = noteOf(anchor);
    if (anchor && this.pages.writes(run) && (note?.run !== run.id || note.state === 'working')) {
      const stand = this.cells.of(run).length ? '; its cells so far are kept' : '';
      showHeader(anchor, facts, `agent: lost, because its kernel is gone${stand}`);
      if (note?.run === run.id) {
        this.cells.note(anchor, { state: 'lost' });
      }
    }
    this.writer.showIdle(run);
    this.writer.givePlace(run);
  }

  /** The kernel is gone, and with it its runs. */
  loseAll() {
    this.requests.clear();
    this.asking.over();
    this.last = { run: undefined, failed: undefined };
    for (const run of this.runs.values()) {
      if (isWorking(run.id)) {
        this.lose(run);
      }
    }
  }

  // -- the %%agent cell

  /** Show how a run is getting on; once it has begun, put it in the place of an earlier one.
   * @param {Lab.Run} run
   * @param {Lab.Tag} tag
   * @param {Lab.Bundle} data */
  showRun(run, tag, data) {
    const begun = tag.state !== 'starting' && tag.state !== 'unstarted';
    const going = isGoing(tag.state);
    const first = going && !isWorking(run.id);
    const facts = withFold(factsOf(data[MIME]));
    run.anchor = tag.anchor;
    learn(facts);
    const anchor = this.cells.find(tag.anchor);
    const before = noteOf(anchor);
    if (anchor) {
      run.model = anchor;
      if (begun && before?.run !== run.id) {
        this.writer.remove(this.runs.get(before?.run ?? ''), run);
        this.cells.note(anchor, { run: run.id, state: tag.state, digest: tag.digest, last: 0 });
      }
      showHeader(anchor, facts, data['text/plain']);
      if (begun && !going) {
        this.cells.note(anchor, { state: tag.state });
      }
    }
    if (!going) {
      this.writer.showIdle(run);
    }
    if (anchor && run.own && first && this.kernel) {
      remember(this.kernel.id, run.id, tag.anchor);
      this.views.begin(anchor);
    }
  }

  /** The finished run stays as it is, and so does what is said of it: the kernel asked no model.
   * @param {Lab.Tag} tag
   * @param {Lab.Content} content
   * @param {string} session Of the page that ran the cell. */
  showRecorded(tag, content, session) {
    const anchor = this.cells.find(tag.anchor);
    if (anchor) {
      const before = this.headers.get(anchor.id);
      const told = known.get(tag.run) ?? (before?.run === tag.run ? { ...before, cells: 0 } : undefined);
      const facts = { ...factsOf(told), run: tag.run, state: tag.state };
      learn(facts);
      if (session === this.kernel?.clientId) {
        showHeader(anchor, facts, content.data['text/plain']);
      }
    }
  }

  /** Whether no later run has taken a run's place.
   * @param {Lab.Run} run */
  isLatest(run) {
    const anchor = this.cells.find(run.anchor);
    const note = noteOf(anchor);
    return anchor !== undefined && (isWorking(run.id) || note?.run === run.id);
  }

  // -- the user

  /** A button of a bar was pressed.
   * @param {Lab.Panel} panel
   * @param {number} index The cell's that holds the bar; -1 if none does.
   * @param {string} action
   * @param {string} id The run's, as the bar has it. */
  press(panel, index, action, id) {
    const anchor = this.cells.all[index];
    const run = this.runs.get(id);
    if (action === 'again') {
      void this.runAgain(panel, index, id);
    } else if (action === 'show') {
      this.asking.reveal(panel, { jump: true });
    } else if (run && action === 'stop' && isWorking(id) && (index < 0 || run.anchor === anchor?.id)) {
      this.stop(run);
    } else if (!run || run.anchor !== anchor?.id) {
      return; // the bar is not that run's
    } else if (action === 'keep') {
      void this.keep(run);
    } else if (action === 'fold') {
      const facts = factsOf(known.get(id));
      facts.folded = !facts.folded;
      learn(facts);
      showHeader(anchor, facts, headerOf(anchor)?.['text/plain'] ?? '');
      this.views.fold();
    }
  }

  /** Make the cells of a run the user's own; they look so at once.
   * @param {Lab.Run} run */
  async keep(run) {
    await this.keeper.keep(this.kernel, run);
    this.looks.dressAll();
  }

  /** Stop a run: an interrupt is not for one that leaves the kernel free.
   * @param {Lab.Run} run */
  stop(run) {
    if (known.get(run.id)?.background) {
      void ask(this.kernel, { op: 'stop', run: run.id });
    } else {
      interrupt(this.kernel);
    }
  }

  /** Run a %%agent cell, which the user sees.
   * @param {Lab.Panel} panel
   * @param {number} index
   * @param {string} run What its bar is about. */
  async runAgain(panel, index, run) {
    const anchor = this.cells.all[index];
    const widget = panel.content.widgets[index];
    if (!anchor || !asksAgent(anchor)) {
      return;
    }
    if (widget.inputHidden) {
      widget.inputHidden = false; // first see what it would be
      return;
    }
    // JupyterLab asks for a kernel; the agent kernel needs no magics
    if (this.kernel && !this.confinement.byKernel && !(await loadMagics(this.kernel))) {
      problems.set(run, 'Cannot run: this kernel has no jupyter_agent, see its log');
      redraw();
      return;
    }
    problems.delete(run);
    const now = this.cells.indexOf(anchor);
    if (now >= 0 && !panel.isDisposed) {
      this.again.set(anchor.id, noteOf(anchor)?.state ?? '');
      this.cells.note(anchor, { state: 'again' });
      this.app.shell.activateById(panel.id);
      panel.content.deselectAll();
      panel.content.activeCellIndex = now;
      void this.app.commands.execute('notebook:run-cell');
    }
  }

  /** Cells have come, gone or been moved.
   * @param {Lab.Cell[]} fresh */
  changedCells(fresh) {
    if (this.cells.closed) {
      return;
    }
    for (const cell of fresh) {
      this.confinement.mend(cell);
    }
    this.confinement.confineAll();
    this.asking.draw();
    this.looks.dressAll();
    for (const run of this.runs.values()) {
      const anchor = this.cells.find(run.anchor);
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
    if (this.pages.writes(run)) {
      run.last = note?.run === run.id ? (note.last ?? 0) : 0;
      run.held.clear();
      this.sync(run.id);
    }
  }

  /** Count the cells of runs that are there. */
  countCells() {
    let changed = false;
    for (const run of this.runs.values()) {
      this.keeper.countCode(run);
      const facts = known.get(run.id);
      const there = this.cells.of(run).length;
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
    this.looks.dressActive();
    this.timer ||= setTimeout(() => this.tell(), EDIT_PAUSE_MS);
  }

  /** Tell the kernel what the user has made of the agent's cells. */
  tell() {
    this.timer = 0;
    if (this.cells.closed) {
      return;
    }
    if (this.views.idle < EDIT_PAUSE_MS) {
      this.changed(); // the user goes on
      return;
    }
    this.confinement.confineAll();
    this.looks.dressAll();
    const cells = new Map(this.cells.all.map(cell => [cell.id, cell]));
    for (const run of [...this.runs.values()].filter(each => this.pages.writes(each))) {
      if (isWorking(run.id) && run.model && !cells.has(run.anchor) && !run.left) {
        run.left = true; // nobody would see what it does, or costs
        this.stop(run);
      }
      for (const [id, before] of run.held) {
        const source = cells.get(id)?.sharedModel.getSource() ?? null;
        if (this.keeper.isKept(run, id, cells.get(id))) {
          continue; // what the user makes of their own cell is nothing that the agent reads
        }
        if (source !== before) {
          run.held.set(id, source);
          const op = source === null ? 'delete' : 'edit';
          void ask(this.kernel, { op, run: run.id, id, ...(source !== null && { source }) });
        }
      }
    }
    this.countCells();
    this.views.fold();
  }
}
