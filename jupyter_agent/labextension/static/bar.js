// @ts-check
/* The live bar of a run: one line that says what the run does, and its buttons. */

import { factsOf, MIME } from './messages.js';
import { bell, canNotify, isOn, toggle } from './notifications.js';
import { bars, hasJustEnded, isSilent, isWorking, known, problems, redraw, said, STOP_STAYS_MS } from './runs.js';
import { budget, countdown, folding, numbers, shortModel, status } from './words.js';

/** What a button of a bar dispatches. */
export const PRESSED = 'jupyter-agent';
export const BAR = 'jp-JupyterAgentBar';
/** On a bar at the foot of a notebook. */
export const FOOT = 'jp-mod-foot';
export const STYLE = `
.jp-JupyterAgentBar {
  display: flex; align-items: center; gap: 8px;
  padding: 2px 8px !important; min-height: 30px; box-sizing: border-box; container-type: inline-size;
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
.jp-JupyterAgentBar-text { flex: 1 1 0; min-width: 0; display: flex; gap: 0 8px; align-items: center; white-space: nowrap; }
.jp-JupyterAgentBar-buttons { flex: none; display: flex; gap: 4px; }
.jp-JupyterAgentBar-doing { flex: 0 1 auto; min-width: 0; font-weight: 600; overflow: hidden; text-overflow: ellipsis; }
.jp-JupyterAgentBar-facts {
  flex: 0 1 auto; min-width: 0; overflow: hidden;
  color: var(--jp-content-font-color2); font-variant-numeric: tabular-nums;
}
.jp-JupyterAgentBar-facts > * + *::before { content: ' · '; white-space: pre; }
.jp-JupyterAgentBar-where {
  flex: 1 1 0; min-width: 0; overflow: hidden; text-overflow: ellipsis;
  color: var(--jp-content-font-color2);
}
.jp-JupyterAgentBar-left { font-variant-numeric: tabular-nums; }
.jp-JupyterAgentBar-budget {
  flex: none; width: 48px; height: 8px; box-sizing: border-box; overflow: hidden;
  border: 1px solid var(--jp-ui-font-color2); border-radius: 4px;
}
.jp-JupyterAgentBar-budget > * {
  display: block; height: 100%; background: var(--jp-brand-color1); forced-color-adjust: none;
}
.jp-JupyterAgentBar-budget[data-low] > * { background: var(--jp-warn-color1); }
.jp-JupyterAgentBar.jp-mod-foot {
  position: absolute; left: 0; right: 0; bottom: 0; z-index: 20; /* above the tools of a cell */
  border-top: 1px solid var(--jp-border-color1);
}
.jp-JupyterAgentBar [hidden] { display: none; }
.jp-JupyterAgentBar button[aria-disabled='true'] { opacity: 0.5; cursor: default; }
.jp-JupyterAgentBar button {
  display: inline-flex; align-items: center; justify-content: center; gap: 5px;
  height: 24px; min-width: 24px; padding: 0 8px; margin: 0; cursor: pointer; box-sizing: border-box;
  border: 1px solid var(--jp-border-color1); border-radius: var(--jp-border-radius);
  background: var(--jp-layout-color2); color: var(--jp-ui-font-color1);
  font: inherit; white-space: nowrap;
}
.jp-JupyterAgentBar button[hidden] { display: none; }
.jp-JupyterAgentBar button:hover { background: var(--jp-layout-color3); }
.jp-JupyterAgentBar button:focus-visible { outline: 2px solid var(--jp-brand-color1); outline-offset: 1px; }
.jp-JupyterAgentBar button svg { width: 14px; height: 14px; fill: none; stroke: currentColor; stroke-width: 1.5; }
.jp-JupyterAgentBar button[aria-pressed] { padding: 0 4px; }
.jp-JupyterAgentBar button[aria-pressed='true'] svg { fill: currentColor; }
/* what a narrow bar leaves out is on its title */
@container (max-width: 800px) { .jp-JupyterAgentBar-where { display: none; } }
@container (max-width: 560px) {
  .jp-JupyterAgentBar-facts [data-kind='step'] { display: none; }
  .jp-JupyterAgentBar-facts [data-kind='step'] + *::before { content: none; }
}
@container (max-width: 500px) { /* a button's words are still its name */
  .jp-JupyterAgentBar button { padding: 0 4px; }
  .jp-JupyterAgentBar-words { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
}
@container (max-width: 340px) {
  .jp-JupyterAgentBar-facts [data-kind='tokens'], .jp-JupyterAgentBar-budget { display: none; }
  .jp-JupyterAgentBar-facts [data-kind='tokens'] + *::before { content: none; }
}
`;

const KEEP = "Make the agent's cells your own: in a kernel of your own they then run with your rights";

/** A part of a bar, which a narrow bar may leave out.
 * @param {{kind: string, text: string}} part */
function partOf({ kind, text }) {
  const node = document.createElement('span');
  node.dataset.kind = kind;
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
      this.told = '';
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
      this.meter = span('budget', text);
      this.meter.setAttribute('role', 'meter');
      this.meter.setAttribute('aria-label', 'Budget');
      this.meter.append(document.createElement('span'));
      this.where = span('where', text);
      this.notify = this.button('notify', bell(), 'Notify', 'Notify me when a long run ends or waits for me');
      this.notify.querySelector(`.${BAR}-words`)?.remove();
      this.notify.setAttribute('aria-label', 'Notify me');
      this.seek = this.button('show', '↓', 'Show', 'Show the question');
      this.doing.addEventListener('click', () => !this.seek.hidden && this.seek.click());
      this.stop = this.button('stop', '■', 'Stop', 'Stop the agent');
      this.again = this.button('again', '↻', 'Run again', 'Ask the model again');
      this.keep = this.button('keep', '✓', 'Keep as mine', KEEP);
      this.folder = this.button('fold', '', '', '');
    }

    /** @param {string} action
     * @param {string | Element} icon What is seen before the words, and not read out.
     * @param {string} words
     * @param {string} title */
    button(action, icon, words, title) {
      const button = document.createElement('button');
      button.type = 'button';
      button.title = title;
      const sign = document.createElement('span');
      sign.className = `${BAR}-icon`;
      sign.setAttribute('aria-hidden', 'true');
      sign.append(icon);
      const text = document.createElement('span');
      text.className = `${BAR}-words`;
      text.textContent = words;
      button.append(sign, text);
      button.addEventListener('click', event => {
        if (action === 'stop' && event.detail > 1) {
          return; // the second click of two on Run again, which was in its place
        }
        if (action === 'notify') {
          void toggle().then(redraw);
          return;
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
      this.where.textContent = [shortModel(model ?? ''), sandbox].filter(Boolean).join(' · ');
      this.notify.hidden = !going || !canNotify();
      this.notify.setAttribute('aria-pressed', String(isOn()));
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
      const [icon, words] = this.folder.children;
      icon.textContent = `${fold.icon} ${cells ?? 0}`;
      words.textContent = ` ${fold.words}`;
      this.folder.setAttribute('aria-label', `${cells ?? 0} ${fold.words}`);
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
      const now = { ...this.facts, seconds };
      const parts = numbers(now);
      const told = parts.map(part => part.text).join(' · ');
      if (told !== this.told) {
        this.told = told;
        this.numbers.replaceChildren(...parts.map(partOf));
      }
      const spent = budget(now);
      this.showBudget(spent);
      const { model, sandbox } = now;
      const title = [said, told, spent?.text, model, sandbox].filter(Boolean).join('\n');
      if (this.node.title !== title) {
        this.node.title = title;
      }
    }

    /** @param {{share: number, text: string} | undefined} spent */
    showBudget(spent) {
      this.meter.hidden = !spent;
      if (spent) {
        const percent = Math.round(spent.share * 100);
        /** @type {HTMLElement} */ (this.meter.firstChild).style.width = `${percent}%`;
        this.meter.toggleAttribute('data-low', spent.share > 0.8);
        this.meter.setAttribute('aria-valuenow', String(percent));
        this.meter.setAttribute('aria-valuetext', spent.text);
        this.meter.title = spent.text;
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
