// @ts-check
/* The module federation container of a prebuilt extension, which package.json names
 * (`jupyterlab._build.load`). JupyterLab loads it as a classic script.
 *
 * The extension itself is the ES modules beside this file, with no build. The browser resolves
 * `import` against the URL of this script, whatever the server's base URL is. Their URLs hold no
 * version: JupyterLab's server has the browser ask each time whether such a file has changed. */
(() => {
  /** @type {Promise<Record<string, () => Promise<object>>>} */
  let modules;
  const page = /** @type {any} */ (window);
  page._JUPYTERLAB = page._JUPYTERLAB || {};
  page._JUPYTERLAB['jupyter-agent-kernel'] = {
    /** @param {Lab.ShareScope} scope */
    init: scope => {
      modules = import('./extension.js').then(({ modulesFor }) => modulesFor(scope));
    },
    /** @param {string} name */
    get: async name => {
      const loaded = await (await modules)[name]();
      return () => ({ __esModule: true, default: loaded });
    }
  };
})();
