"""The sandbox as one run uses it: with the user's values and tools in it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing

from jupyter_agent._nbformat import NotebookNode
from jupyter_agent.errors import SandboxError, UsageError
from jupyter_agent.exchange.tools import Tools
from jupyter_agent.exchange.values import Inputs, check_name, unpack
from jupyter_agent.sandbox.client import Sandbox
from jupyter_agent.sandbox.connection import UserRequest
from jupyter_agent.sandbox.execution import Answer
from jupyter_agent.sandbox.guest.codec import encode

__all__ = ["Workspace"]


class Workspace:
    """A sandbox with the values and tools of a run; the loop runs cells in it.

    Parameters
    ----------
    inputs
        Values that code in the sandbox finds as variables.
    outputs
        Names of variables that are copied out when the run ends.

    Raises
    ------
    UsageError
        A tool and an input have one name, or what is to be copied out cannot be a name.
    """

    def __init__(
        self,
        sandbox: Sandbox,
        tools: Tools,
        *,
        inputs: Inputs,
        outputs: Sequence[str],
    ) -> None:
        for name in tools.tools.keys() & inputs.packed.keys():
            raise UsageError(f"{name!r} is a tool and an input; rename one of them")
        self.results: dict[str, object] = {}
        self.missing: list[str] = []  # a line for each result that could not be copied out
        self._sandbox = sandbox
        self._tools = tools
        self._inputs = inputs
        self._outputs = [check_name(name) for name in outputs]
        self._prepared = 0  # the generation of the kernel that has the values and tools
        self._asked = False

    @property
    def preview(self) -> str:
        """The beginning of each value, as text; empty if there are none."""
        return self._inputs.preview

    @property
    def execution_count(self) -> int | None:
        """The count of the last cell."""
        return self._sandbox.execution_count

    async def execute(
        self, code: str, *, answer: Answer | None = None, request: UserRequest | None = None
    ) -> AsyncGenerator[NotebookNode, None]:
        """Run a cell, and answer its calls of tools.

        Parameters
        ----------
        answer, request
            See `Sandbox.execute`; ``answer`` answers everything but tool calls.
        """
        await self.prepare()
        answer = self._tools.start_cell(answer)
        outputs = self._sandbox.execute(code, answer=answer, request=request)
        async with aclosing(outputs):
            async for output in outputs:
                yield output

    async def prepare(self) -> None:
        """Put values and tools into the kernel, once for each new kernel."""
        await self._sandbox.start()
        if self._prepared == self._sandbox.generation:
            return
        if packed := self._inputs.packed:
            await self._call("take", packed, packed)
        if self._tools.tools:
            await self._call("offer", self._tools.specs(), self._tools.tools)
        self._prepared = self._sandbox.generation

    async def _call(self, function: str, value: object, names: Iterable[str]) -> list[bytearray]:
        """Transfer values, in or out; an error names those that were not transferred."""
        try:
            return await self._sandbox.call(function, encode(value))
        except SandboxError as error:
            lost = ", ".join(f"`{name}`" for name in names)
            raise SandboxError(f"{lost}: {error}") from None

    async def collect(self) -> str:
        """Copy the results out; return a reminder for the model if some are missing.

        The reminder is returned once. The second call returns an empty text.
        """
        if not self._outputs:
            return ""
        reply = await self._call("give", self._outputs, self._outputs)
        self.results, self.missing = await unpack(reply, self._outputs)
        asked, self._asked = self._asked, True
        if asked or not self.missing:
            return ""
        return (
            "The user needs these variables when you end, and they are not there yet: "
            f"{'; '.join(self.missing)}. Set them in a cell, then give your answer again."
        )

    def note(self) -> str:
        """Return the note for the model: the variables that are set, and those that it must set."""
        notes = []
        if told := self._inputs.told:
            notes.append("Variables that are set in your kernel:\n\n" + "\n".join(told))
        if self._tools.tools:
            notes.append(self._tools.describe())
        if self._outputs:
            names = ", ".join(f"`{name}`" for name in self._outputs)
            notes.append(
                f"When you end, these variables must be set, for the user: {names}. They can hold "
                "numbers, text, lists, dicts, arrays, tables and matplotlib figures."
            )
        return "\n\n".join(notes)
