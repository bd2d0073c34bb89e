// @ts-check
/* Draw a question to the user: what it is about, and its buttons. */

export const QUESTION = 'jp-JupyterAgentQuestion';
export const QUESTION_STYLE = `
.jp-mod-jupyterAgentAsked .jp-OutputArea-stdin-item { display: none; }
.jp-JupyterAgentQuestion {
  display: flex; flex-direction: column; gap: 6px; box-sizing: border-box;
  margin: 4px 0 4px calc(var(--jp-cell-prompt-width) + var(--jp-cell-collapser-width, 8px));
  padding: 6px 8px; min-height: 0; overflow: visible;
  border: 1px solid var(--jp-border-color1); border-left: 3px solid var(--jp-warn-color1);
  border-radius: var(--jp-border-radius);
  background: var(--jp-layout-color1); color: var(--jp-content-font-color1);
  font-family: var(--jp-ui-font-family); font-size: var(--jp-ui-font-size1); line-height: 1.4;
}
@media only screen and (max-width: 480px) { /* where JupyterLab puts the prompt above the cell */
  .jp-JupyterAgentQuestion { margin-left: var(--jp-cell-collapser-width, 8px); }
}
.jp-JupyterAgentQuestion:focus-visible { outline: 2px solid var(--jp-brand-color1); outline-offset: 1px; }
.jp-JupyterAgentQuestion-title { font-weight: 600; }
.jp-JupyterAgentQuestion-text {
  margin: 0; padding: 4px 6px; white-space: pre-wrap; overflow-wrap: anywhere;
  background: var(--jp-layout-color2); color: var(--jp-content-font-color1);
  font-family: var(--jp-code-font-family); font-size: var(--jp-code-font-size);
  line-height: var(--jp-code-line-height); unicode-bidi: plaintext; direction: ltr;
}
.jp-JupyterAgentQuestion-row { display: flex; flex-wrap: wrap; gap: 6px 8px; align-items: center; }
.jp-JupyterAgentQuestion-row[hidden] { display: none; }
.jp-JupyterAgentQuestion-note { color: var(--jp-content-font-color2); }
.jp-JupyterAgentQuestion button {
  min-height: 26px; padding: 0 12px; margin: 0; cursor: pointer;
  border: 1px solid var(--jp-border-color1); border-radius: var(--jp-border-radius);
  background: var(--jp-layout-color2); color: var(--jp-ui-font-color1); font: inherit; white-space: nowrap;
}
.jp-JupyterAgentQuestion button:hover { background: var(--jp-layout-color3); }
.jp-JupyterAgentQuestion button:disabled { opacity: 0.6; cursor: default; }
.jp-JupyterAgentQuestion button.jp-mod-first {
  border-color: var(--jp-brand-color1); background: var(--jp-brand-color1);
  color: var(--jp-ui-inverse-font-color1);
}
.jp-JupyterAgentQuestion button:focus-visible, .jp-JupyterAgentQuestion input:focus-visible {
  outline: 2px solid var(--jp-brand-color1); outline-offset: 2px;
}
.jp-JupyterAgentQuestion input {
  flex: 1 1 160px; min-width: 0; min-height: 26px; box-sizing: border-box; padding: 0 6px;
  border: 1px solid var(--jp-border-color1); border-radius: var(--jp-border-radius);
  background: var(--jp-layout-color0); color: var(--jp-content-font-color1); font: inherit;
}
`;

const TITLES = /** @type {Record<string, string>} */ ({
  code: 'Run this cell?',
  tool: 'Run this tool?',
  permission: 'Allow this?'
});

/** @param {string} tag
 * @param {string} name
 * @param {Array<string | Node>} inside */
function element(tag, name, ...inside) {
  const node = document.createElement(tag);
  node.className = `${QUESTION}-${name}`;
  node.append(...inside);
  return node;
}

/** @param {string} text
 * @param {string} title
 * @param {() => void} press */
function button(text, title, press) {
  const node = document.createElement('button');
  node.type = 'button';
  node.textContent = text;
  node.title = title;
  node.addEventListener('click', event => {
    if (event.detail < 2) {
      press(); // not the second click of two, which was for the question before
    }
  });
  return node;
}

/** Make the field for why something is refused, in the place of the buttons.
 * @param {HTMLElement} buttons
 * @param {(why: string) => void} refuse */
function refusal(buttons, refuse) {
  const why = document.createElement('input');
  why.type = 'text';
  why.setAttribute('aria-label', 'Why (the agent reads it; may be empty)');
  why.placeholder = 'Why? The agent reads it. May be empty';
  const back = () => show(false);
  const row = element(
    'div',
    'row',
    why,
    button('Refuse', 'Do not run it, and tell the agent why', () => refuse(why.value)),
    button('Back', 'Back to the other answers (Escape)', back)
  );
  /** @param {boolean} on */
  const show = on => {
    row.hidden = !on;
    buttons.hidden = on;
    (on ? why : /** @type {HTMLElement} */ (buttons.querySelector('[data-answer=refuse]'))).focus();
  };
  row.hidden = true;
  why.addEventListener('keydown', event => {
    if (event.key === 'Enter' && !event.isComposing) {
      refuse(why.value);
    } else if (event.key === 'Escape') {
      back();
    }
  });
  return { row, show };
}

/** Make the node of a question.
 * @param {string} kind
 * @param {string} text What it is about, if that is not in sight above it.
 * @param {{run: () => void, runAll: () => void, edit: () => void, refuse: (why: string) => void}} answers */
export function questionNode(kind, text, { run, runAll, edit, refuse }) {
  const title = element('div', 'title', Object.hasOwn(TITLES, kind) ? TITLES[kind] : TITLES.permission);
  const node = document.createElement('div');
  node.className = QUESTION;
  node.tabIndex = -1;
  node.setAttribute('role', 'group');
  node.setAttribute('aria-label', `The agent asks: ${title.textContent}`);
  title.setAttribute('role', 'alert');
  const buttons = element('div', 'row');
  const { row, show } = refusal(buttons, refuse);
  const first = kind === 'permission' ? button('Allow', 'Allow it', run) : button('Run', 'Run it', run);
  first.classList.add('jp-mod-first');
  const no = button('Refuse…', 'Do not run it, and say why', () => show(true));
  no.dataset.answer = 'refuse';
  const note = element('div', 'note', 'Edit the cell above, then press Run or Shift+Enter.');
  note.hidden = true;
  const change = button('Edit', 'Change the cell before it runs', () => {
    note.hidden = false;
    edit();
  });
  const all = button('Run all', 'Run this cell and the later ones of this run, without a question', runAll);
  buttons.append(...(kind === 'code' ? [first, change, no, all] : [first, no]));
  node.append(title, ...(text ? [element('pre', 'text', text)] : []), buttons, row, note);
  node.addEventListener('keydown', event => {
    if (!event.ctrlKey && !event.metaKey && !event.altKey) {
      event.stopPropagation(); // it is for the question, and is not the notebook's
    }
    if (event.repeat && event.key === 'Enter') {
      event.preventDefault(); // a key that is held down answers nothing
    }
  });
  return node;
}
