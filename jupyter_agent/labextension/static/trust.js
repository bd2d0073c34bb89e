// @ts-check
/* Draw the agent's cells untrusted, and keep the notebook's trust where that is safe. */

import { isInert } from './messages.js';
import { isAgents } from './notes.js';

/** @import { NotebookCells } from './cells.js' */

export class Trust {
  /**
   * @param {NotebookCells} cells
   * @param {(html: string) => string} sanitize JupyterLab's sanitizer. */
  constructor(cells, sanitize) {
    this.cells = cells;
    this.sanitize = sanitize;
  }

  /** @param {unknown} html */
  sanitized(html) {
    return this.sanitize([html].flat().join(''));
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
        this.cells.silently(() => cell.setMetadata('trusted', false)); // by this the server signs
      }
    }
  }

  /** As the notebook is saved, let the server sign it as far as the agent's cells go: they need no
   * sanitizer when it is opened again. Here they stay as they are drawn. */
  markSafeCells() {
    for (const cell of this.cells.all.filter(isAgents)) {
      const code = /** @type {Lab.CodeCell} */ (cell);
      if (code.outputs?.length) {
        // each of them is cleaned, also those after one that is not safe
        const safe = code.outputs.toJSON().map((output, i) => this.makeSafe(code, output, i)).every(Boolean);
        if (safe !== Boolean(cell.getMetadata('trusted'))) {
          this.cells.silently(() => cell.setMetadata('trusted', safe));
        }
      }
    }
  }

  /** Keep an output's HTML in its sanitized form; tell whether the output is safe so.
   * @param {Lab.CodeCell} cell
   * @param {Lab.OutputData} output
   * @param {number} index */
  makeSafe(cell, output, index) {
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
}
