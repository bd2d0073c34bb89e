/* What the extension uses of JupyterLab 4.2 to 4.6, and the messages of our kernels.
 *
 * By hand: the packages that hold these types weigh 400 MB. */

declare namespace Lab {
  interface Signal<Sender, Args> {
    connect(slot: (sender: Sender, args: Args) => void): boolean;
  }

  // -- our own

  /** What we note on a cell, in its metadata. */
  interface Note {
    /** Sent with a command: the page can change its cells. */
    page?: boolean;
    /** The cell's own: a copy of the cell carries the note of another. */
    id: string;
    run: string;
    /** Of an agent's cell: its place in the run, and what of it the agent wrote. */
    index?: number;
    checksum?: string;
    /** And which step of the run it is, the sandbox's count, and what the model thought before. */
    step?: number;
    count?: number;
    thought?: string;
    /** Of a cell of a saved run: what it is there. */
    role?: string;
    /** Of a %%agent cell: how its run stands, its text, the last step shown. */
    state?: string;
    digest?: string;
    last?: number;
  }

  /** What a run has used: tokens, US dollars, and the limit of its tokens. */
  interface Used {
    tokens?: number;
    tokens_in?: number;
    tokens_out?: number;
    /** Whether some of it is an estimate. */
    estimated?: boolean;
    cost?: number;
    /** Whether anybody has named a price, and whether some replies have none. */
    priced?: boolean;
    unpriced?: boolean;
    limit?: number;
  }

  /** What a header says. */
  interface Facts extends Used {
    run: string;
    state: string;
    doing?: string;
    waiting?: string;
    step?: number;
    background?: boolean;
    seconds?: number;
    model?: string;
    sandbox?: string;
    cells?: number;
    folded?: boolean;
    /** Why it failed or was stopped. */
    why?: string;
    /** Seconds until it goes on, where it waits. */
    wait?: number;
  }

  /** What a kernel has told of a run, and when (milliseconds of the page's clock). */
  interface KnownFacts extends Facts {
    since: number;
    /** When the kernel last gave a sign. */
    heard: number;
    /** When it said what the run waits for. */
    told: number;
    ended: number;
    /** Cells of the run that are in the notebook. */
    there?: number;
    /** Code cells among them. */
    code?: number;
  }

  interface CellState {
    id: string;
    index: number;
    type: string;
    state: string;
    first_line: string;
    count?: number | null;
    step?: number;
    thought?: string;
    source: string;
    outputs: OutputData[];
  }

  /** What a message means for the notebook. Which fields there are depends on `op`. */
  interface Tag extends Omit<CellState, 'source' | 'outputs'> {
    op: string;
    run: string;
    anchor: string;
    /** How many messages of the run were sent, this one too. */
    sent: number;
    digest: string;
    /** Code that is offered to the user. */
    text: string;
    wait: boolean;
    error?: OutputData;
    used?: unknown;
  }

  interface Snapshot extends Tag {
    header: Bundle;
    cells: CellState[];
    /** The question that is open. */
    asks?: Question | null;
  }

  /** A cell that was run, and what it held. */
  interface Ran {
    id: string;
    source: string;
    /** The id of the request that has run it. */
    request: string;
  }

  /** A question to the user. */
  interface Question {
    /** Empty where a cell needs a permission before it has a run. */
    run: string;
    anchor: string;
    /** The cell that it is about. */
    id: string;
    /** What the answer names. */
    number: string;
    kind: 'code' | 'tool' | 'permission';
    /** What is not in sight otherwise. */
    text: string;
    /** Of a cell: its code, and what stands before it. */
    code: string;
    first_line: string;
    /** Whether this page has asked for the question, and may have missed the request for input. */
    again?: boolean;
  }

  /** What a kernel knows of a run. */
  interface Known {
    anchor: string;
    /** Of the page that asked for it. */
    session: string;
    facts: Facts;
    /** The sources of its cells. */
    cells: Record<string, string>;
    /** The ids of those that the user has deleted. */
    deleted: string[];
  }

  /** A run, as far as this page knows. */
  interface Run {
    id: string;
    /** The %%agent cell. */
    anchor: string;
    /** The model of that cell: another one once it was moved or has come back. */
    model: Cell | undefined;
    /** Whether that cell was deleted and the run stopped for it. */
    left: boolean;
    /** The session of the page that asked for it. */
    session: string;
    /** Whether this page asked for it. */
    own: boolean;
    /** Whether this page has written it so far. */
    wrote: boolean;
    sent: number;
    /** The last step that was shown: an earlier one that is not there was deleted. */
    last: number;
    /** Messages that are gathered, to be done together. */
    queue: Array<[Tag, Content]>;
    timer: number;
    /** Messages that came while the whole run is fetched. */
    waiting: Array<[Tag, Content]> | null;
    /** What the kernel holds of each cell that this page has shown; null of one that the user has
     * deleted. */
    held: Map<string, string | null>;
    /** Cells that are the user's now. */
    kept: Set<string>;
  }

  // -- messages

  // biome-ignore lint/suspicious/noExplicitAny: mime bundles hold any JSON
  type Bundle = Record<string, any>;

  interface Header {
    msg_id: string;
    msg_type: string;
    session: string;
  }

  interface Content {
    data: Bundle;
    metadata: Bundle;
    name?: string;
    text?: string;
    execution_state?: string;
  }

  interface Message {
    channel: string;
    header: Header;
    parent_header: Header;
    metadata: Record<string, unknown>;
    content: Content;
  }

  interface Kernel {
    id: string;
    clientId: string;
    username?: string;
    info: Promise<{ implementation: string }>;
    anyMessage: Signal<Kernel, { msg: Message; direction: 'send' | 'recv' }>;
    registerMessageHook(id: string, hook: (message: Message) => boolean): void;
    sendControlMessage(
      message: object,
      expectReply: boolean,
      disposeOnDone: boolean
    ): { onReply: (reply: Message) => void; done: Promise<unknown> };
    sendInputReply(content: object, header: object): void;
    requestExecute(content: object): {
      // biome-ignore lint/suspicious/noExplicitAny: mime bundles hold any JSON
      done: Promise<{ content: { status: string; user_expressions?: Record<string, any> } }>;
    };
    interrupt(): Promise<void>;
  }

  // -- the document

  interface OutputData {
    output_type: string;
    data?: Bundle;
    metadata?: Bundle;
    name?: string;
    text?: string;
    execution_count?: number | null;
    ename?: string;
    evalue?: string;
    traceback?: string[];
  }

  interface Output {
    data: Bundle;
  }

  interface Cell {
    id: string;
    type: string;
    trusted: boolean;
    /** Of its text: it chooses the colours. */
    mimeType: string;
    mimeTypeChanged: Signal<unknown, unknown>;
    sharedModel: {
      getSource(): string;
      setSource(source: string): void;
      updateSource(start: number, end: number, text: string): void;
    };
    // biome-ignore lint/suspicious/noExplicitAny: metadata is any JSON
    getMetadata(key: string): any;
    setMetadata(key: string, value: unknown): void;
    deleteMetadata(key: string): void;
  }

  interface CodeCell extends Cell {
    executionCount: number | null;
    /** From JupyterLab 4.4. */
    executionState?: string;
    /** None if the user has made another kind of cell of it. */
    outputs: {
      length: number;
      get(index: number): Output;
      add(output: OutputData): number;
      set(index: number, output: OutputData): void;
      clear(wait?: boolean): void;
      toJSON(): OutputData[];
      fromJSON(outputs: OutputData[]): void;
    };
  }

  interface Context {
    ready: Promise<void>;
    isDisposed: boolean;
    disposed: Signal<Context, void>;
    saveState: Signal<unknown, string>;
    model: {
      cells: Iterable<Cell> & { changed: Signal<unknown, { type: string; newValues: Cell[] }> };
      contentChanged: Signal<unknown, void>;
      metadataChanged: Signal<unknown, unknown>;
      /** Whether the server shares the document between pages. */
      collaborative?: boolean;
      defaultKernelLanguage: string;
      sharedModel: {
        /** What the pages say of themselves that have this document open. */
        awareness: {
          clientID: number;
          // biome-ignore lint/suspicious/noExplicitAny: any page's
          getStates(): Map<number, any>;
          setLocalStateField(name: string, value: unknown): void;
          on(event: string, slot: (change: { added: number[] }) => void): void;
        };
        cells: ReadonlyArray<{ getId(): string }>;
        transact(change: () => void, undoable?: boolean): void;
        insertCells(index: number, cells: object[]): unknown;
        deleteCell(index: number): void;
      };
    };
    sessionContext: {
      session: { kernel: Kernel | null } | null;
      kernelChanged: Signal<unknown, unknown>;
      statusChanged: Signal<unknown, string>;
    };
  }

  // -- widgets

  class Widget {
    id: string;
    node: HTMLElement;
    isAttached: boolean;
    isDisposed: boolean;
    isHidden: boolean;
    disposed: Signal<Widget, void>;
    addClass(name: string): void;
    dispose(): void;
    hide(): void;
    setHidden(hidden: boolean): void;
    update(): void;
    activate(): void;
    constructor(options?: { node: HTMLElement });
    static attach(widget: Widget, host: HTMLElement): void;
  }

  /** Draws what is known of a run. */
  interface Bar extends Widget {
    draw(): void;
    about(run: string): void;
  }

  /** What bars are made with. */
  interface BarKit {
    Bar: new () => Bar;
    Widget: typeof Widget;
  }

  interface CellWidget extends Widget {
    placeholder: boolean;
    /** Once it is drawn. */
    ready: Promise<void>;
    inputHidden: boolean;
    layout: { widgets: readonly Widget[]; insertWidget(index: number, widget: Widget): void };
    editor: { focus(): void; lineCount: number; setCursorPosition(place: object): void } | null;
    /** Of a code cell. */
    outputArea?: { widgets: readonly Widget[] };
    rendered?: boolean;
    renderer?: { renderModel(model: object): Promise<void> };
    setPrompt?(text: string): void;
  }

  interface Panel extends Widget {
    context: Context;
    content: Widget & {
      widgets: CellWidget[];
      outerNode: HTMLElement;
      activeCellIndex: number;
      mode: string;
      scrollToItem(index: number, align: string): Promise<void>;
      codeMimetype: string;
      deselectAll(): void;
      rendermime: {
        sanitizer: { sanitize(html: string): string };
        latexTypesetter: { typeset(node: HTMLElement): unknown } | null;
        markdownParser: { render(source: string): Promise<string> } | null;
      };
    };
  }

  /** A cell that is about to run. */
  interface Scheduled {
    notebook: Widget;
    cell: { model: Cell };
  }

  interface Palette {
    addItem(item: { command: string; category: string }): unknown;
  }

  interface App {
    shell: { activateById(id: string): void; currentWidget: Widget | null; currentChanged: Signal<unknown, unknown> };
    commands: {
      execute(command: string): Promise<unknown>;
      addCommand(id: string, options: object): unknown;
      notifyCommandChanged(id: string): void;
    };
    docRegistry: {
      addWidgetExtension(
        factory: string,
        extension: { createNew(panel: Panel, context: Context): void }
      ): unknown;
    };
  }

  // biome-ignore lint/suspicious/noExplicitAny: any module
  type ShareScope = Record<string, Record<string, { get(): Promise<() => any> }>>;
}
