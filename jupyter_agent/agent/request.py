"""Build the request from the transcript, without what the server has refused."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources

from jupyter_agent._nbformat import NotebookNode
from jupyter_agent.agent import summary
from jupyter_agent.errors import ModelError
from jupyter_agent.models.examples import EXAMPLES
from jupyter_agent.models.faults import refuses_pictures
from jupyter_agent.models.protocol import Form, Message, Model
from jupyter_agent.transcript.incremental import fingerprints_of
from jupyter_agent.transcript.notebook import Transcript

__all__ = ["ModelFacts", "Requests", "characters"]


@dataclass(slots=True)
class ModelFacts:
    """What servers have told about their models, by name; a session keeps it between runs."""

    no_vision: set[str] = field(default_factory=set)
    windows: dict[str, int] = field(default_factory=dict)  # tokens
    thinks_aloud: dict[str, bool] = field(
        default_factory=dict
    )  # replies begin with an unmarked thought


@dataclass(slots=True)
class Requests:
    """Writes the requests about a transcript.

    Parameters
    ----------
    examples
        Whether example runs come before the first task.
    context_window
        Tokens that the model can read, as the user has set it; 0 for what the server says.
    """

    model: Model
    transcript: Transcript
    model_facts: ModelFacts
    examples: bool = False
    context_window: int = 0
    _sizes: summary.RequestSizes = field(default_factory=summary.RequestSizes)

    def messages(self, cells: Sequence[NotebookNode] | None = None) -> list[Message]:
        """Write the request about these cells, by default the next one of the run."""
        return self.sized(cells)[0]

    def size(self, cells: Sequence[NotebookNode] | None = None) -> int:
        """Estimate the tokens of a request about these cells, by default the next one."""
        return self._sizes.of(cells or self.transcript.cells_in_context(), characters(self._head()))

    def sized(self, cells: Sequence[NotebookNode] | None = None) -> tuple[list[Message], int]:
        """Write a request and estimate its tokens, in one pass over the cells."""
        cells = cells or self.transcript.cells_in_context()
        fingerprints = fingerprints_of(cells)
        told = self.transcript.messages(
            self.model.form,
            cells,
            with_pictures=self.model.name not in self.model_facts.no_vision,
            fingerprints=fingerprints,
        )
        head = self._head()
        return [*head, *told], self._sizes.of(cells, characters(head), fingerprints)

    def _head(self) -> list[Message]:
        """Write the beginning of every request."""
        form = self.model.form
        return [_system(form), *(_examples(form) if self.examples else ())]

    @property
    def window(self) -> int:
        """Tokens that the model can read; 0 if nobody knows."""
        known = self.context_window or self.model.window or 0
        window = self.model_facts.windows.get(self.model.name, known)
        return min(known, window) if known else window

    def old_cells(self) -> int:
        """Return how many cells can be summed up, if a quarter of the window is kept."""
        return summary.split(self.transcript.cells_in_context(), self.window // 4)

    def learn(self, error: ModelError) -> bool:
        """Learn from a refusal; return whether the next request will be different."""
        model, no_vision = self.model.name, self.model_facts.no_vision
        if model not in no_vision and _sees(self.messages()) and refuses_pictures(error):
            no_vision.add(model)
            return True
        if error.kind == "context":
            refused = self.size()  # this may be too low, but later estimates have the same error
            self.model_facts.windows[model] = min(error.window or refused, refused)
            return self.old_cells() > 0
        return False


def _system(form: Form) -> Message:
    return Message(role="system", content=_instructions(form))


@functools.cache
def _instructions(form: Form) -> str:
    """Read the instructions for the model; the two forms differ in how to reply."""
    home = resources.files("jupyter_agent.agent")
    text = home.joinpath("system.md").read_text(encoding="utf-8").strip()
    before, _, rest = text.partition("<!-- reply -->\n")
    reply, _, after = rest.partition("<!-- /reply -->\n")
    if form == "tool":
        reply = home.joinpath("reply_tool.md").read_text(encoding="utf-8")
    return before + reply + after


def _examples(form: Form) -> list[Message]:
    """Write the examples as a transcript writes runs."""
    runs = Transcript()
    for number, example in enumerate(EXAMPLES):
        runs.add("task", example.task)
        runs.add("prose", example.prose, step=1)
        shown = {"text": f"Output:\n{example.output}", "pictures": []}
        runs.add("code", example.code, step=1, shown=shown, call=f"example{number:02}")
        runs.add("prose", example.answer, step=2)
    return runs.messages(form)


def characters(messages: Sequence[Message]) -> int:
    """Count the characters of messages, without their pictures."""
    contents = [message["content"] for message in messages]
    return sum(
        len(content) if isinstance(content, str) else sum(len(p.get("text", "")) for p in content)
        for content in contents
    )


def _sees(messages: Sequence[Message]) -> bool:
    contents = [message["content"] for message in messages]
    return any(not isinstance(c, str) and any("image_url" in p for p in c) for c in contents)
