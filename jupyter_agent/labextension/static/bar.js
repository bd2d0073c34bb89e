// @ts-check
/* The live bar of a run: one line that says what the run does, and its buttons. */

import { factsOf, MIME } from './messages.js';
import { bars, hasJustEnded, isSilent, isWorking, known, problems, said, STOP_STAYS_MS } from './runs.js';
import { countdown, folding, numbers, status } from './words.js';

/** What a button of a bar dispatches. */
export const PRESSED = 'jupyter-agent';
export const BAR = 'jp-JupyterAgentBar';
/** On a bar at the foot of a notebook. */
export const FOOT = 'jp-mod-foot';
export const STYLE = `
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

const KEEP = "Make the agent's cells your own: in a kernel of your own they then run with your rights";

/** Text that stays on one line.
 * @param {string} text */
function unbroken(text) {
  const node = document.createElement('span');
  node.style.whiteSpace = 'nowrap';
  node.textContent = text;
  return node;
}

/** Make the widget that draws a header: the bar of its run.
 * @param {typeof Lab.Widget} Widget JupyterLab's own. */
export function barClass(Widget) {
  return class extends Widget {
    constructor() {
      super();
      this.addClass(BAR);
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
        node.className = `${BAR}-${name}`;
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
      this.seek = this.button('show', 'Show', 'Show the question');
      this.doing.addEventListener('click', () => !this.seek.hidden && this.seek.click());
      this.stop = this.button('stop', '■ Stop', 'Stop the agent');
      this.again = this.button('again', '↻ Run again', 'Ask the model again');
      this.keep = this.button('keep', 'Keep as mine', KEEP);
      this.folder = this.button('fold', '', '');
    }

    /** @param {string} action
     * @param {string} text
     * @param {string} title */
    button(action, text, title) {
      const button = document.createElement('button');
      button.type = 'button';
      button.textContent = text;
      button.title = title;
      button.addEventListener('click', event => {
        if (action === 'stop' && event.detail > 1) {
          return; // the second click of two on Run again, which was in its place
        }
        const detail = { action, run: this.facts.run };
        this.node.dispatchEvent(new CustomEvent(PRESSED, { bubbles: true, detail }));
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
      const { run } = this.facts;
      const working = isWorking(run);
      return status(this.facts, {
        problem: problems.get(run) ?? said.get(run),
        known: known.has(run),
        working,
        silent: isSilent(run)
      });
    }

    draw() {
      const { run, state, model, sandbox, cells: all, folded } = this.facts;
      const facts = known.get(run);
      const unknown = !facts;
      const cells = facts?.there ?? all;
      const going = isWorking(run);
      const ended = !going && hasJustEnded(run);
      const focused = /** @type {HTMLElement | null} */ (document.activeElement);
      this.node.dataset.state = unknown ? 'file' : state;
      this.count();
      this.where.textContent = [model, sandbox].filter(Boolean).join(' · ');
      this.node.title = [this.says, this.where.textContent].filter(Boolean).join('\n');
      this.seek.hidden = !going || this.facts.doing !== 'asking';
      this.doing.style.cursor = this.seek.hidden ? '' : 'pointer';
      // where Stop was nothing else answers yet
      this.stop.hidden = !going && !ended;
      this.stop.setAttribute('aria-disabled', String(ended));
      if (ended) {
        this.resting ||= setTimeout(() => {
          this.resting = 0;
          this.draw();
        }, STOP_STAYS_MS);
      }
      this.again.hidden = going || ended || (state === 'unstarted' && !unknown);
      this.keep.hidden = unknown || going || ended || !facts?.code;
      this.folder.hidden = unknown || going || ended || !cells;
      const fold = folding(cells ?? 0, folded ?? false);
      this.folder.textContent = fold.text;
      this.folder.title = fold.title;
      this.folder.setAttribute('aria-expanded', String(!folded));
      if (focused?.hidden && this.node.contains(focused)) {
        (going ? this.stop : this.again).focus(); // the keyboard stays in the bar
      }
      this.tick();
    }

    count() {
      const { run, waiting, wait } = this.facts;
      const said = this.says;
      if (this.doing.textContent !== said) {
        this.doing.textContent = said; // a screen reader says it once
      }
      const facts = known.get(run);
      if (waiting && wait && facts) {
        this.left.textContent = countdown(wait, (performance.now() - facts.told) / 1000);
      }
      const working = isWorking(run);
      this.left.hidden = !(working && waiting && wait);
      const since = working ? facts?.since : undefined;
      const seconds = since === undefined ? this.facts.seconds : (performance.now() - since) / 1000;
      const parts = numbers({ ...this.facts, seconds });
      if (this.numbers.textContent !== parts.join(' · ')) {
        // a line breaks between two of them
        this.numbers.replaceChildren(...parts.flatMap((part, i) => (i ? [' · ', unbroken(part)] : [unbroken(part)])));
      }
    }

    /** Count the seconds while a run goes on and can be seen. */
    tick() {
      clearInterval(this.ticking);
      if (this.isAttached && isWorking(this.facts.run)) {
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
