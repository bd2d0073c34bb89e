// @ts-check
/* Write the cells of runs into a notebook. Only cells that it made itself, and that the user has not
 * changed since, are written. */

import { KEY, outputOf } from './messages.js';
import { cellData, checksum, isHeld, isUntouched, noteOf, placeFor, placeholderOf, RAISES } from './notes.js';
import { isWorking } from './runs.js';

/** @import { NotebookCells } from './cells.js' */
/** @import { Trust } from './trust.js' */
/** @import { Views } from './views.js' */

export class Writer {
  /**
   * @param {NotebookCells} cells
   * @param {Trust} trust
   * @param {Views} views */
  constructor(cells, trust, views) {
    this.cells = cells;
    this.trust = trust;
    this.views = views;
  }

  // -- the cells of a run

  /** Insert cells that follow each other, in one change of the document.
   * @param {Lab.Run} run
   * @param {string} anchor
   * @param {Lab.CellState[]} states */
  insert(run, anchor, states) {
    const step = { run: run.id, anchor, index: states[0]?.index };
    const at = states.length ? placeFor(this.cells.all, step) : 0;
    if (at === 0) {
      return; // the user has deleted the %%agent cell: the run goes on unseen
    }
    run.last = states[states.length - 1].index;
    const cells = states.map(state => cellData(run.id, state));
    const anchorCell = /** @type {Lab.Cell} */ (this.cells.find(anchor));
    this.cells.silently(() => {
      this.cells.insert(at, cells);
      this.cells.note(anchorCell, { last: run.last });
    });
    this.views.drawInserted();
    for (const state of states) {
      const cell = /** @type {Lab.Cell} */ (this.cells.find(state.id));
      run.held.set(cell.id, cell.sharedModel.getSource());
      if (state.type === 'markdown') {
        this.views.change(cell, widget => {
          widget.rendered = true;
        });
      }
      this.setOutputs(cell, state);
    }
  }

  /** Write a cell as it stands now, if it is still there.
   * @param {Lab.Run} run
   * @param {Lab.Tag} tag
   * @param {string} source */
  update(run, tag, source) {
    const cell = run.held.has(tag.id) ? this.cells.find(tag.id) : undefined;
    if (cell && !source && tag.state === 'done') {
      this.takeBack(run, cell);
    } else if (cell) {
      this.write(run, cell, tag.first_line + source);
      this.progress(cell, tag);
    }
  }

  /** Bring a cell that is there to how the kernel has it.
   * @param {Lab.Run} run
   * @param {Lab.CellState} state */
  restore(run, state) {
    const cell = this.cells.find(state.id);
    if (cell && noteOf(cell)) {
      run.held.set(cell.id, state.first_line + state.source);
      this.write(run, cell, state.first_line + state.source);
      this.setOutputs(cell, state);
    }
  }

  /** The model's reply broke off, and half of one is none.
   * @param {Lab.Run} run
   * @param {Lab.Cell} cell */
  takeBack(run, cell) {
    const note = noteOf(cell);
    if (note && isUntouched(cell, note)) {
      run.held.delete(cell.id);
      this.cells.delete(this.cells.indexOf(cell));
    }
  }

  /** Set a cell's source, unless the user has changed it.
   * @param {Lab.Run} run
   * @param {Lab.Cell} cell
   * @param {string} source */
  write(run, cell, source) {
    const note = noteOf(cell);
    const before = cell.sharedModel.getSource();
    if (!note || before === source || !isUntouched(cell, note)) {
      return;
    }
    this.cells.silently(() => {
      if (source.startsWith(before)) {
        cell.sharedModel.updateSource(before.length, before.length, source.slice(before.length));
      } else {
        cell.sharedModel.setSource(source);
      }
      cell.setMetadata(KEY, { ...note, checksum: checksum(source) });
    });
    run.held.set(cell.id, source);
    if (cell.type === 'markdown') {
      void this.views.draw(run, cell);
    }
  }

  // -- their outputs

  /** Bring a cell's outputs up to those that the kernel has sent. They come when the cell is there
   * and its trust is settled: a view follows the text of those streams only that are added to it.
   * @param {Lab.Cell} cell
   * @param {Lab.CellState} state */
  setOutputs(cell, state) {
    const code = /** @type {Lab.CodeCell} */ (cell);
    if (state.type === 'code' && code.outputs) {
      const outputs = state.outputs.map(output => this.trust.cleaned(output));
      for (const { data } of outputs) {
        this.trust.distrust(code, data ?? {});
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
  addOutput(run, tag, content) {
    const cell = this.cells.code(run, tag.id);
    if (!cell) {
      return;
    }
    const output = this.trust.cleaned(outputOf(tag, content));
    this.trust.distrust(cell, output.data ?? {});
    if (output.output_type === 'stream' || tag.index >= cell.outputs.length) {
      cell.outputs.add(output);
    } else {
      cell.outputs.set(tag.index, output);
    }
  }

  /** @param {Lab.Run} run
   * @param {Lab.Tag} tag */
  clearOutputs(run, tag) {
    this.cells.code(run, tag.id)?.outputs.clear(tag.wait);
  }

  /** Show whether a code cell is running, or its count.
   * @param {Lab.Cell} cell
   * @param {{state: string, count?: number | null, first_line?: string}} state */
  progress(cell, { state, count, first_line }) {
    if (cell.type === 'code') {
      const code = /** @type {Lab.CodeCell} */ (cell);
      if (state === 'done' && count && code.executionCount !== count) {
        code.executionCount = count;
      }
      if (state === 'done' && count && first_line && noteOf(cell) && noteOf(cell)?.count !== count) {
        this.cells.note(cell, { count }); // the sandbox's, in the user's own kernel
      }
      if (state === 'done') {
        this.letRunAllGoOn(code);
      }
      this.showRunning(code, state === 'running');
    }
  }

  /** Let *Run All* go on after an error, which the agent has read: a later step may mend it.
   * @param {Lab.CodeCell} cell */
  letRunAllGoOn(cell) {
    const tags = cell.getMetadata('tags') ?? [];
    const failed = cell.outputs?.toJSON().some(output => output.output_type === 'error');
    if (failed && noteOf(cell) && !tags.includes(RAISES)) {
      this.cells.silently(() => cell.setMetadata('tags', [...tags, RAISES]));
    }
  }

  /** @param {Lab.CodeCell} cell
   * @param {boolean} on */
  showRunning(cell, on) {
    if ('executionState' in cell) {
      if (cell.executionState !== (on ? 'running' : 'idle')) {
        cell.executionState = on ? 'running' : 'idle';
      }
    } else {
      // before JupyterLab 4.4
      this.views.change(cell, widget => widget.setPrompt?.(on ? '*' : `${cell.executionCount ?? ''}`));
    }
  }

  /** No cell of a run runs any more.
   * @param {Lab.Run} run */
  showIdle(run) {
    for (const cell of this.cells.of(run)) {
      this.progress(cell, { state: 'idle' });
    }
  }

  // -- a run in the place of another

  /** Take away an earlier run, which is one undo, save for the cells that the user has edited.
   * @param {Lab.Run | undefined} run
   * @param {Lab.Run} next */
  remove(run, next) {
    if (!run) {
      return; // this kernel has not made its cells
    }
    /** @type {Set<string>} */
    const gone = new Set();
    this.cells.silently(() => {
      for (const cell of this.cells.of(run)) {
        const note = noteOf(cell);
        if (note && isUntouched(cell, note) && isHeld(run, cell)) {
          gone.add(cell.id);
        } else {
          // the user's now, but still text of the agent's
          cell.setMetadata(KEY, { id: cell.id, checksum: note?.checksum ?? '' });
        }
      }
    });
    this.keepPlace(next, gone);
    this.cells.deleteUndoably(gone);
    run.held.clear();
  }

  /** Put an empty cell, which is not shown, where a run's first one will be: below those that it
   * replaces, so that an undo brings these back to where they were. Without it the document has
   * them below all that is inserted meanwhile.
   * @param {Lab.Run} run
   * @param {Set<string>} replaced */
  keepPlace(run, replaced) {
    const cells = this.cells.all;
    let at = cells.findIndex(cell => cell.id === run.anchor) + 1;
    if (replaced.has(cells[at]?.id)) {
      while (replaced.has(cells[at]?.id)) {
        at++;
      }
      const id = placeholderOf(run.id);
      const state = { id, index: 0, type: 'raw', state: '', first_line: '', source: '', outputs: [] };
      this.cells.insert(at, [cellData(run.id, state)]);
      queueMicrotask(() => this.views.fold());
    }
  }

  /** Take that cell away when the run has cells of its own, or will have none. The end of a run may
   * come together with its first cell, which needs its place all the same.
   * @param {Lab.Run} run */
  givePlace(run) {
    if (isWorking(run.id) && !run.last) {
      return;
    }
    const index = this.cells.all.findIndex(cell => cell.id === placeholderOf(run.id));
    if (index >= 0) {
      this.cells.delete(index);
    }
  }
}
