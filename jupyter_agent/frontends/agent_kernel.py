"""The kernel Python 3 (agent): it holds the agent and forwards every cell to a sandbox.

It runs no code itself, neither the user's nor the agent's. So a notebook on this kernel has plain
cells that anyone can run again, and the keys stay in a process that runs no cells. `outputs` and
`replies` check what the sandbox sends before a client gets it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import glob
import re
import shlex
import signal
from collections.abc import Coroutine
from contextlib import aclosing
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any, NoReturn

import zmq.asyncio
from IPython.core.inputtransformer2 import TransformerManager
from IPython.core.usage import default_banner
from traitlets import Bool, List, Unicode

from jupyter_agent import __version__, settings
from jupyter_agent._nbformat import NotebookNode
from jupyter_agent._threads import run_in_thread
from jupyter_agent.errors import (
    AgentError,
    Defect,
    Interrupted,
    NoModel,
    SandboxError,
    UsageError,
)
from jupyter_agent.exchange.approval import Question, Verdict, asker
from jupyter_agent.frontends.commands import carry_out
from jupyter_agent.frontends.completion import (
    Completions,
    Sources,
    complete,
    known_models,
    working_files,
)
from jupyter_agent.frontends.ipykernel_base import FrontApp, FrontKernel, JupyterMessage
from jupyter_agent.frontends.keeping import last_code, say_kept
from jupyter_agent.frontends.mending import (
    NO_ERROR,
    NO_MENDED_CELL,
    fix_options,
    fix_task,
    mended_cell,
)
from jupyter_agent.frontends.model_table import model_table
from jupyter_agent.frontends.options import (
    CELL_OPTIONS,
    VALUE_OPTIONS,
    run_options,
    wrong_line,
)
from jupyter_agent.sandbox.connection import UserRequest
from jupyter_agent.sandbox.filter.fields import printable
from jupyter_agent.sandbox.filter.host_commands import NAMES, Command, inert, read_command
from jupyter_agent.sandbox.filter.widgets import PROTOCOL, TARGET, VIEW
from jupyter_agent.session import Session
from jupyter_agent.views.live import DisplayView, question_tag
from jupyter_agent.views.output_area import AnswerView, ending, show_recorded
from jupyter_agent.views.page_requests import REPLACED, KnownRuns, Note, digest
from jupyter_agent.views.publishers import KernelPublisher
from jupyter_agent.views.tables import Bundle

__all__ = ["AgentKernel"]

Reply = dict[str, Any]
_COMMS = ("comm_open", "comm_msg", "comm_close")


class _CellParser(argparse.ArgumentParser):
    """Parses the options of a ``%%agent`` line."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(wrong_line(message))


def _parser() -> _CellParser:
    parser = _CellParser(
        "%%agent", add_help=False, description="The task is written below this line."
    )
    for flags, facts in CELL_OPTIONS:
        parser.add_argument(*flags, **facts)
    for flags, _ in VALUE_OPTIONS:
        parser.add_argument(*flags, nargs="?", type=_refuse, const="", help=argparse.SUPPRESS)
    return parser


def _refuse(_: str) -> NoReturn:
    raise argparse.ArgumentTypeError(
        "it is for your own kernel, and here the agent shares the kernel of your cells; leave it "
        "out"
    )


@dataclass(frozen=True, slots=True)
class _CellRequest:
    """A cell to run, and the request for it."""

    code: str
    count: int
    request: UserRequest
    parent: JupyterMessage
    ident: Any
    allow_stdin: bool


class AgentKernel(settings.Configured, FrontKernel):
    """Forwards cells to the sandbox; carries ``%%agent`` cells out itself."""

    prose = Bool(
        False, help="Whether a cell that holds prose and no code is a task for the agent."
    ).tag(config=True)

    widgets = Bool(
        False,
        help="Whether widgets work in your own cells; code in your page draws them.",
    ).tag(config=True)

    allowed = List(
        Unicode(),
        help="Permissions that cells have without a question, as an error message names them: "
        "'--data /data/*', '-m http://127.0.0.1:8000'; * matches any text.",
    ).tag(config=True)

    implementation = "jupyter_agent"
    implementation_version = __version__
    banner = f"{default_banner}jupyter_agent {__version__}: cells run in a sandbox; %%agent?\n"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._session = Session(parent=self, keep_spare=True)
        self._running: asyncio.Task[Reply] | None = None
        self._forwarding = False  # whether a user's cell runs, which the sandbox can interrupt
        self._telling = 0  # messages to widgets that the sandbox works on
        self._asked: asyncio.Future[str] | None = None  # the answer to a question on stdin
        self._question = ""  # the id of the question's message
        self._granted: set[str] = set()  # by the user
        self._command_cell: _CellRequest | None = (
            None  # the cell of the command that is carried out
        )
        self._typed_commands: set[str] = set()  # all commands so far, as typed
        self._tasks: set[asyncio.Task[None]] = set()
        self._warned = False  # of unknown settings
        self._failed_cell: _CellRequest | None = None  # of the user's own, the last one
        self._runs = KnownRuns(functools.partial(say_kept, names=None))
        self._runs.listen(self)
        self.shell_handlers |= dict.fromkeys(_COMMS, self._hear_comm)

    def start(self) -> None:
        """Start to listen, and start the sandbox."""
        super().start()
        self.io_loop.add_callback(self._begin)

    async def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGINT, self._interrupt)
        self.iopub_thread.greet()
        self._keep(self._listen_on_stdin())
        self._session.sandbox.warm_up()

    def _keep(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- facts about this kernel

    @property
    def execution_count(self) -> int:
        """The number of the next cell; the sandbox counts."""
        return self._session.sandbox.next_count

    @execution_count.setter
    def execution_count(self, value: int) -> None:
        """Ignore a new count: the sandbox counts."""

    def stream(self, name: str, text: str) -> None:
        """Write to ``stdout`` or ``stderr``."""
        self.publish("stream", {"name": name, "text": text})

    # -- cells

    async def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: dict[str, str] | None = None,
        allow_stdin: bool = False,
        **_: Any,
    ) -> Reply:
        """Run a cell (message spec: execute_request)."""
        parent, count = self.get_parent("shell"), self.execution_count
        request = UserRequest(
            silent=silent,
            store_history=store_history,
            user_expressions=user_expressions or {},
            **self._request_fields(parent),
        )
        cell = _CellRequest(code, count, request, parent, self.client, allow_stdin)
        self._running = asyncio.get_running_loop().create_task(self._carry_out(cell))
        try:
            return await self._running
        except asyncio.CancelledError:
            return self._failed(Interrupted("the cell was stopped"), cell)
        except AgentError as error:
            return self._failed(error, cell)
        except Exception as error:  # without a reply the cell would seem to run for ever
            return self._failed(self._defect(error), cell)
        finally:
            self._running = None

    def _defect(self, error: BaseException) -> Defect:
        """Log an unexpected exception, and describe it in one line."""
        self.log.error("jupyter_agent", exc_info=error)
        return Defect.of(error, "The kernel's log has the traceback")

    async def _answer(self, asked: Coroutine[Any, Any, Reply]) -> Reply:
        """Answer a lookup, such as a completion; reply with the error if it fails."""
        try:
            return await asked
        except AgentError as error:
            return _refusal(error)
        except Exception as error:
            return _refusal(self._defect(error))

    async def _carry_out(self, cell: _CellRequest) -> Reply:
        command = read_command(cell.code, prose=self.prose)
        if not (self._warned or cell.request.silent):
            self._warned = True
            for line in settings.read().warnings:
                self.stream("stderr", f"{line}\n")
        match command:
            case Command("agent" | "prose", line, task):
                return await self._counted(cell, self._task(cell, line, task))
            case Command("line", words) if words == "keep" or words.split()[:1] == ["fix"]:
                offers = list[str]()
                reply = await self._counted(cell, self._offering(cell, words, offers))
                return reply | {"payload": [_next_input(text) for text in offers]}
            case Command("line", words):
                return await self._counted(cell, self._command(cell, words))
            case Command("help"):
                return await self._counted(cell, self._nothing()) | {"payload": [_help()]}
        if self._runs.is_replaced(Note.of(cell.parent)):
            self.stream("stdout", f"{REPLACED}\n")
            return _reply("ok", cell)
        if command:  # %%sandbox, from a notebook with the magics; here it changes nothing
            cell = replace(cell, code=command.body)
        return await self._forward(cell)

    async def _forward(self, cell: _CellRequest) -> Reply:
        """Run a user's cell in the sandbox; pass its outputs and its error on."""
        ask = functools.partial(self._ask_user, cell)
        keep = cell.request.store_history and not cell.request.silent
        again = self._agents_own(cell) if keep else None
        outputs = self._session.execute(
            cell.code,
            keep=keep and again is None,
            answer=ask if cell.allow_stdin else None,
            request=cell.request,
        )
        error = NotebookNode(ename="SandboxError", evalue="no reply", traceback=[])
        self._forwarding = True
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    if output.output_type == "error":
                        error = output
                        self._failed_cell = self._failed_cell if again else cell
                    self._publish(output, cell.parent)
                    if again:
                        self._session.transcript.add_output(again, output)
            if again:
                await self._session.transcript.fit_pictures(again)
        finally:
            self._forwarding = False
            if again:
                again.execution_count = self._session.sandbox.execution_count
                self._session.transcript.finish(again)
        if reply := self._session.sandbox.reply:
            return dict(reply)
        return _reply("error", cell) | {n: error[n] for n in ("ename", "evalue", "traceback")}

    def _agents_own(self, cell: _CellRequest) -> NotebookNode | None:
        """Find the agent's cell that is run again, so that the agent reads its new outputs."""
        again = self._runs.cell(Note.of(cell.parent))
        if not any(again is one for one in self._session.transcript.cells):
            return None
        assert again
        again.source, again.outputs = cell.code, []
        return again

    def _publish(self, output: NotebookNode, parent: JupyterMessage) -> None:
        """Send an output of the sandbox, with a prefix in its display ids."""
        content = {name: value for name, value in output.items() if name != "output_type"}
        if output.output_type in _COMMS:
            self._send_comm(output.output_type, content, parent)
            return
        if VIEW in content.get("data", {}) and VIEW not in self._session.sandbox.admit:
            content["data"] = self._drawable(content["data"], parent)
        if "data" in content:
            transient = content.get("transient", {})
            content["transient"] = {name: f"sandbox-{value}" for name, value in transient.items()}
        self.publish(output.output_type, content, parent)

    def _request_fields(self, parent: JupyterMessage) -> dict[str, Any]:
        """Return the fields of a request for outputs that come after their cell's end."""
        late = functools.partial(self._publish_late, parent=parent)
        return {"late": late, "widgets": self.widgets, "msg_id": parent["header"]["msg_id"]}

    def _publish_late(self, output: NotebookNode, parent: JupyterMessage) -> None:
        """Send what a cell prints after its end, but not while a command is carried out.

        A client that does not name its cells would show it among the command's outputs.
        """
        is_mixed = self._command_cell and not Note.of(self._command_cell.parent).cell_id
        if not is_mixed or output.output_type in _COMMS:
            self._publish(output, parent)

    async def _counted(self, cell: _CellRequest, work: Coroutine[Any, Any, None]) -> Reply:
        """Carry out a command here, and have the sandbox count and record it as a cell.

        To the sandbox it is a cell, but outputs that its threads send for it are dropped.
        """
        self._typed_commands.add(cell.code.strip())
        self._command_cell = cell
        try:
            return await self._count(cell, work)
        finally:
            self._command_cell = None

    async def _count(self, cell: _CellRequest, work: Coroutine[Any, Any, None]) -> Reply:
        try:
            request = replace(cell.request, late=None, widgets=False)
            outputs = self._session.execute(cell.code, request=request)
            async with aclosing(outputs):
                async for _ in outputs:
                    pass
        except SandboxError:  # the command itself gives a better message
            pass
        except BaseException:
            work.close()
            raise
        await work
        return _reply("ok", cell)

    def _failed(self, error: AgentError, cell: _CellRequest) -> Reply:
        facts = {"ename": type(error).__name__, "evalue": str(error)}
        content = {**facts, "traceback": error._render_traceback_()}
        self.publish("error", content)
        return _reply("error", cell) | content

    # -- the agent

    async def _task(self, cell: _CellRequest, line: str, task: str) -> None:
        try:
            options = _parser().parse_args(shlex.split(line))
        except ValueError as error:  # a quotation mark is missing
            raise UsageError(wrong_line(f"cannot read {line!r}: {error}")) from None
        await self._agent(cell, options, task, note=Note.of(cell.parent))

    async def _offering(self, cell: _CellRequest, words: str, offers: list[str]) -> None:
        """Carry out a command that may offer cells to the user."""
        if words == "keep":
            await self._keep_run(cell, offers)
        else:
            await self._fix(cell, words.removeprefix("fix"), offers)

    async def _fix(self, cell: _CellRequest, line: str, offers: list[str]) -> None:
        """Have the user's last error mended, and offer the mended cell below."""
        options, words = fix_options(line, _parser())
        if self._failed_cell is None:
            raise UsageError(NO_ERROR)
        note = Note.of(cell.parent)
        # another error is another task
        note = replace(note, source=f"{note.source}\n{self._failed_cell.code}")
        task = fix_task(self._failed_cell.count, words)
        if not await self._agent(cell, options, task, note=note):
            return
        mended = mended_cell(self._session.transcript.answer)
        if not mended:
            self.stream("stdout", f"{NO_MENDED_CELL}\n")
        elif note.page:
            KernelPublisher(self).busy(self._runs.offer(mended))
        else:
            offers.append(mended)

    async def _keep_run(self, cell: _CellRequest, offers: list[str]) -> None:
        """Make the cells of the last run the user's own."""
        code, failed = last_code(self._session.transcript.cells)
        ask = functools.partial(self._runs.keep, KernelPublisher(self).busy)
        said = await run_in_thread(ask) if Note.of(cell.parent).page else ""
        if not said:
            offers.append("\n\n".join(code))
            said = say_kept(code, None, failed=failed)
        self.stream("stdout", f"{said}\n")

    async def _agent(
        self, cell: _CellRequest, options: argparse.Namespace, task: str, *, note: Note
    ) -> bool:
        """Carry out a task; tell whether a model was asked."""
        publisher = KernelPublisher(self)
        if self._runs.held(note) and not (options.quiet or options.rerun):
            show_recorded(publisher, note, header=self._runs.header(note))
            return False
        view: AnswerView | DisplayView = AnswerView(publisher)
        read = functools.partial(self._ask_user, cell, password=False)
        ask = asker(read, shown=False)
        if not options.quiet:
            view = DisplayView(
                publisher,
                anchor=note.cell_id,
                digest=digest(note.source),
                replaces=note.run,
                session=note.session,
                spending=lambda: self._session.budget,
            )
            self._runs.add(view)
            # live cells may be far below the input box
            ask = asker(read, shown=not note.cell_id, tell=view.ask)
        asked = run_options(
            options,
            replay=not (options.rerun or note.again),
            asker=ask if cell.allow_stdin else None,
            permit=functools.partial(self._permit, cell),
            replaces=self._runs.task(note.run),
        )
        changes = self._session.run(task, asked)
        state, why = "done", ""
        try:
            async with aclosing(changes):
                async for change in changes:
                    view(change)
        except BaseException as error:
            state, why = ending(error)
            if isinstance(error, NoModel):
                self._show(await model_table(self._session.model))
            raise
        finally:
            view.finish(state, why)
        return True

    async def _command(self, cell: _CellRequest, words: str) -> None:
        if words == "stop":
            said = {"text/plain": "No run is going on. The stop button stops one."}
        elif words == "wait":
            raise UsageError("no run is in the background: here a run keeps its cell busy")
        else:
            permit = functools.partial(self._permit, cell)
            said = await carry_out(self._session, words, permit=permit)
        if words == "reset":
            self._runs.forget()
            self._failed_cell = None
        self._show(said)

    def _show(self, bundle: Bundle) -> None:
        """Show text as text, and a table as one."""
        if len(bundle) == 1:
            self.stream("stdout", f"{bundle['text/plain']}\n")
        else:
            self.publish("display_data", {"data": bundle, "metadata": {}, "transient": {}})

    async def _permit(self, cell: _CellRequest, permission: str) -> None:
        """Ask the user once for a permission: somebody else may have written the notebook."""
        known = permission in self._granted or permission in self.allowed
        if known or any(fnmatchcase(permission, each) for each in self.allowed):
            return
        verdict = Verdict(allowed=False, reason="the user cannot be asked here")
        if cell.allow_stdin:
            read = functools.partial(self._ask_user, cell, password=False)
            ask = asker(read, shown=True, tell=functools.partial(self._tell_pages, cell))
            verdict = await ask(Question("permission", f"{_PERMISSION_INTRO}\n\n    {permission}"))
        if not verdict.allowed:
            raise UsageError(
                f"{permission} was not allowed: {verdict.reason}. To allow it always, set "
                f"c.AgentKernel.allowed = [{glob.escape(permission)!r}]"
            )
        self._granted.add(permission)

    def _tell_pages(self, cell: _CellRequest, question: dict[str, Any]) -> None:
        """Tell pages of a question about a cell of the user's."""
        if where := Note.of(cell.parent).cell_id:
            there = {**question, "id": where} if question else {}
            KernelPublisher(self).busy(question_tag(there, anchor=where))

    async def _nothing(self) -> None:
        pass

    # -- widgets

    def _drawable(self, data: dict[str, Any], parent: JupyterMessage) -> dict[str, Any]:
        """Show a widget that the page knows; replace any other by a text."""
        data = dict(data)
        try:
            view = self._session.sandbox.widgets.view(data.pop(VIEW), parent["header"]["msg_id"])
        except ValueError as error:
            said = f"{data.get('text/plain', '')}\n[not shown: {error}]"
            return data | {"text/plain": said.strip()}
        return data | {VIEW: view}

    def _send_comm(self, kind: str, content: dict[str, Any], parent: JupyterMessage) -> None:
        buffers, metadata = content.pop("buffers", []), PROTOCOL if kind == "comm_open" else {}
        self.publish(kind, content, parent, buffers=buffers, metadata=metadata)

    async def _hear_comm(self, _stream: Any, _ident: Any, message: JupyterMessage) -> None:
        """Pass a page's message on to a widget; close any other comm at once."""
        kind, content = message["header"]["msg_type"], message["content"]
        comm_id = content.get("comm_id")
        if kind == "comm_open":
            # such as ipywidgets' control comm; without that, pages ask each widget for its state
            self._send_comm("comm_close", {"comm_id": comm_id, "data": {}}, message)
            return
        if not self.widgets or comm_id not in self._session.sandbox.widgets:
            return
        beside = self._running is not None  # then the base class sends neither busy nor idle
        if beside:
            self.publish("status", {"execution_state": "busy"}, message)
        try:
            await self._tell(kind, content, message)
            if kind == "comm_close":
                self._session.sandbox.widgets.close(comm_id)
        finally:
            if beside:
                self.publish("status", {"execution_state": "idle"}, message)

    async def _tell(self, kind: str, content: dict[str, Any], message: JupyterMessage) -> None:
        told = self._session.sandbox.send_comm(
            kind, content, message["buffers"], request=UserRequest(**self._request_fields(message))
        )
        self._telling += 1
        try:
            async with aclosing(told):
                async for output in told:
                    self._publish(output, message)
        finally:
            self._telling -= 1

    async def comm_info_request(self, stream: Any, ident: Any, parent: JupyterMessage) -> None:
        """Name the widgets that are open (message spec: comm_info_request)."""
        ids = self._session.sandbox.widgets.ids()
        if parent["content"].get("target_name") not in (None, TARGET):
            ids = []
        comms = {comm_id: {"target_name": TARGET} for comm_id in ids}
        reply = {"comms": comms, "status": "ok"}
        self._wire.send(stream, "comm_info_reply", reply, parent, ident)

    # -- stdin

    async def _ask_user(self, cell: _CellRequest, prompt: str, password: bool) -> str:
        """Ask the client for a line of input (message spec: input_request)."""
        self._asked = asyncio.get_running_loop().create_future()
        content = {"prompt": printable(prompt), "password": password}
        socket, kind = self.stdin_socket, "input_request"
        sent = self._wire.send(socket, kind, content, cell.parent, ident=cell.ident)
        assert sent
        self._question = sent["header"]["msg_id"]
        try:
            return await self._asked
        finally:
            self._asked = None

    async def _listen_on_stdin(self) -> None:
        """Receive the user's answers; drop those to no open question."""
        socket = zmq.asyncio.Socket(self.stdin_socket)
        while True:
            try:
                _, frames = self._wire.feed_identities(await socket.recv_multipart())
                message = self._wire.deserialize(frames)
                value = message["content"]["value"]
                asked = message["parent_header"].get("msg_id", self._question)
            except Exception as error:  # unsigned or malformed: each raises something else
                self.log.warning("an answer on stdin was dropped: %s", error)
                continue
            # a page names the question, because an earlier one may still be shown
            if self._asked and not self._asked.done() and asked == self._question:
                self._asked.set_result(str(value))

    # -- other requests

    async def do_complete(self, code: str, cursor_pos: int | None) -> Reply:
        """Complete in the sandbox, and a command's line here."""
        return await self._answer(self._complete(code, cursor_pos))

    async def _complete(self, code: str, cursor_pos: int | None) -> Reply:
        command = read_command(code)
        if command and command.kind != "sandbox":
            place = len(code) if cursor_pos is None else cursor_pos
            found = await self._complete_command(code, place)
            return _completions(found or Completions(place), place)
        reply = await self._ask("complete_request", code=code, cursor_pos=cursor_pos)
        return _without_commands(code, reply, prose=self.prose)

    async def _complete_command(self, code: str, place: int) -> Completions | None:
        files = list[str]()
        if re.match(r"\s*%agent\s+fetch\s", code):
            files = await working_files(self._session)
        sources = Sources(
            CELL_OPTIONS,
            self._session.folder,
            models=known_models(self._session, self._session.model),
            configured=self._session.model,
            files=lambda: files,
        )
        return await run_in_thread(functools.partial(complete, code, place, sources))

    async def do_inspect(
        self, code: str, cursor_pos: int, detail_level: int = 0, omit_sections: Any = ()
    ) -> Reply:
        """Inspect in the sandbox."""
        asked = self._ask(
            "inspect_request",
            code=code,
            cursor_pos=cursor_pos,
            detail_level=detail_level,
            omit_sections=sorted(omit_sections),
        )
        return await self._answer(asked)

    async def do_is_complete(self, code: str) -> Reply:
        """Ask the sandbox whether code is complete; a console waits only a second for the reply."""
        return await self._answer(self._is_complete(code))

    async def _is_complete(self, code: str) -> Reply:
        if not self._session.sandbox.alive:
            status, indent = TransformerManager().check_complete(code)
            return {"status": status} | ({"indent": " " * indent} if indent is not None else {})
        return await self._ask("is_complete_request", code=code)

    async def do_history(self, *args: Any, **asked: Any) -> Reply:
        """Read the sandbox's history, which is of this session only."""
        if not self._session.sandbox.alive:
            return {"status": "ok", "history": []}
        names = ("hist_access_type", "output", "raw")
        return await self._answer(self._history(asked | dict(zip(names, args, strict=False))))

    async def _history(self, asked: dict[str, Any]) -> Reply:
        reply = await self._ask("history_request", **asked)
        for entry in reply.get("history", ()):
            entry[2] = self._as_typed(entry[2])
        return reply

    def _as_typed(self, source: Any) -> Any:
        """Return an entry of the history; a command that nobody typed here is made harmless."""
        if isinstance(source, list):  # with its output
            return [self._as_typed(source[0]), *source[1:]]
        return source if source.strip() in self._typed_commands else inert(source)

    async def _ask(self, kind: str, **content: Any) -> Reply:
        return dict(await self._session.sandbox.ask(kind, content))

    # -- ends

    def interrupt_from_thread(self) -> None:
        """Stop what runs, after an interrupt_request; called in the control thread."""
        self._loop.call_soon_threadsafe(self._interrupt)

    def _interrupt(self) -> None:
        """Interrupt a user's code as any kernel does; cancel anything else that runs."""
        if self._forwarding and self._session.sandbox.alive:
            self._keep(self._session.sandbox.interrupt())
        elif self._running:
            self._running.cancel()
        elif self._telling and self._session.sandbox.alive:
            self._keep(self._session.sandbox.interrupt())

    async def do_shutdown(self, restart: bool) -> Reply:
        """End the sandbox too, on its own event loop: this runs in the control thread."""
        closed = asyncio.run_coroutine_threadsafe(self._close(), self._loop)
        await asyncio.wrap_future(closed)
        return {"status": "ok", "restart": restart}

    async def _close(self) -> None:
        """Stop what runs, so that an unfinished run is saved, then end the sandbox."""
        if running := self._running:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({running}, timeout=5)
        for task in tuple(self._tasks):
            task.cancel()
        await self._session.close()


def _reply(status: str, cell: _CellRequest) -> Reply:
    return {"status": status, "execution_count": cell.count, "payload": [], "user_expressions": {}}


def _refusal(error: AgentError) -> Reply:
    facts = {"ename": type(error).__name__, "evalue": str(error), "traceback": []}
    return {"status": "error", **facts}


_PERMISSION_INTRO = (
    "This cell needs your permission, because somebody else may have written the notebook:"
)


def _without_commands(code: str, reply: Reply, *, prose: bool) -> Reply:
    """Leave out completions that would make a cell a command, except the commands' names."""

    @functools.cache
    def harmless(text: str, start: int, end: int) -> bool:
        command = read_command(code[:start] + text + code[end:], prose=prose)
        plain = command is None or command.kind == "sandbox" or text in NAMES
        return plain and "\n" not in text

    if reply["status"] != "ok":
        return reply
    place = (reply["cursor_start"], reply["cursor_end"])
    matches = [text for text in reply["matches"] if harmless(text, *place)]
    metadata = {
        name: [one for one in kinds if harmless(one.get("text", ""), one["start"], one["end"])]
        for name, kinds in reply["metadata"].items()
    }
    return reply | {"matches": matches, "metadata": metadata}


def _completions(found: Completions, end: int) -> Reply:
    """Write completions as ipykernel does."""
    place = {"start": found.start, "end": end, "signature": ""}
    kinds = [place | {"text": one.text, "type": one.kind} for one in found.choices]
    return {
        "status": "ok",
        "matches": [one.text for one in found.choices],
        "cursor_start": found.start,
        "cursor_end": end,
        "metadata": {"_jupyter_types_experimental": kinds} if kinds else {},
    }


def _next_input(code: str) -> Reply:
    return {"source": "set_next_input", "text": code, "replace": False}


def _help() -> Reply:
    text = _parser().format_help()
    return {"source": "page", "data": {"text/plain": text}, "start": 0}


def main() -> None:
    """Run the kernel of ``kernelspec/jupyter-agent``."""
    # without streams of its own: flushing them takes longer than most cells
    FrontApp.launch_instance(kernel_class=AgentKernel, outstream_class=None)


if __name__ == "__main__":
    main()
