// @ts-check
/* The extension as JupyterLab loads it: a plugin, and a renderer of the headers of runs. */

import { barClass, STYLE } from './bar.js';
import { STYLE as LOOKS } from './looks.js';
import { MIME } from './messages.js';
import { Entries } from './entries.js';
import { LiveNotebook } from './notebook.js';
import { QUESTION_STYLE } from './question.js';

/** A module that JupyterLab shares with extensions.
 * @param {Lab.ShareScope} scope
 * @param {string} name */
async function load(scope, name) {
  return (await Object.values(scope[name])[0].get())();
}

/** @param {Lab.ShareScope} scope
 * @returns {Promise<Lab.BarKit>} */
async function loadKit(scope) {
  const { Widget } = await load(scope, '@lumino/widgets');
  return { Bar: barClass(Widget), Widget };
}

/** @param {Lab.ShareScope} scope
 * @returns {Promise<{executionScheduled: Lab.Signal<unknown, Lab.Scheduled>}>} */
async function loadActions(scope) {
  return (await load(scope, '@jupyterlab/notebook')).NotebookActions;
}

/** @param {Lab.App} app
 * @param {Lab.ShareScope} scope
 * @param {Promise<Lab.BarKit>} kit
 * @returns {(panel: Lab.Panel) => LiveNotebook | undefined} */
function activate(app, scope, kit) {
  const style = document.createElement('style');
  style.textContent = STYLE + LOOKS + QUESTION_STYLE;
  document.head.append(style);
  /** @type {Map<Lab.Context, LiveNotebook>} */
  const notebooks = new Map();
  void loadActions(scope).then(({ executionScheduled }) => {
    executionScheduled.connect((_, { notebook, cell }) => {
      for (const each of notebooks.values()) {
        if (each.views.has(notebook)) {
          each.prepare(cell.model);
        }
      }
    });
  });
  app.docRegistry.addWidgetExtension('Notebook', {
    createNew: (panel, context) => {
      let notebook = notebooks.get(context);
      if (!notebook) {
        notebook = new LiveNotebook(app, context, kit);
        notebooks.set(context, notebook);
        context.disposed.connect(() => notebooks.delete(context));
      }
      notebook.add(panel);
    }
  });
  return panel => notebooks.get(panel.context);
}

/** Make the modules that `package.json` names.
 * @param {Lab.ShareScope} scope What JupyterLab shares with extensions.
 * @returns {Record<string, () => Promise<object>>} */
export function modulesFor(scope) {
  const kit = loadKit(scope);
  return {
    './extension': async () => {
      const { ICommandPalette, Notification } = await load(scope, '@jupyterlab/apputils');
      const { LabIcon } = await load(scope, '@jupyterlab/ui-components');
      return {
        id: 'jupyter-agent-kernel:live-cells',
        description: 'Shows the cells that an agent writes as cells of the notebook, while it writes them.',
        autoStart: true,
        optional: [ICommandPalette],
        /** @param {Lab.App} app
         * @param {Lab.Palette | null} palette */
        activate: (app, palette) => {
          const notebookOf = activate(app, scope, kit);
          new Entries(app, notebookOf, { LabIcon, Notification }).add(palette);
        }
      };
    },
    './mimeExtension': async () => {
      const { Bar } = await kit;
      const rendererFactory = { safe: true, mimeTypes: [MIME], createRenderer: () => new Bar() };
      return { id: 'jupyter-agent-kernel:bar', rendererFactory, rank: 0, dataType: 'json' };
    }
  };
}
