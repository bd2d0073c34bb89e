"""The options of a run, as one value: model, values, tools, limits, file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

from jupyter_agent.errors import UsageError
from jupyter_agent.exchange.approval import POLICIES

if TYPE_CHECKING:
    from jupyter_agent._nbformat import NotebookNode
    from jupyter_agent.exchange.approval import Ask
    from jupyter_agent.exchange.permission import Permit

__all__ = ["RunOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """What a run is asked for; what is left out is as the session has it.

    Parameters
    ----------
    model
        The model, as -m names it.
    max_steps
        Most replies of the model.
    data
        Paths that the sandbox may read; ``["none"]`` for none; None keeps what is shared.
    save
        Where to save the run, after every cell; a saved run that is there is gone on with.
    timeout
        Seconds.
    budget
        Tokens.
    replay
        Whether a finished run of this task that is recorded at ``save`` takes the model's
        place: its cells are shown again, and their code runs again.
    inputs
        Values that the agent finds as variables.
    outputs
        Variables of the agent's that are wanted; `Session.results` holds them when the run has
        ended.
    tools
        Functions that the agent may call, by name, beside the session's.
    ask
        When to ask the user: ``always``, ``risky`` or ``never``; None as the session says.
    asker
        Asks the user; without it nobody can be asked, and the answer is no.
    permit
        Has the user allow what reaches beyond the notebook's folder and the configuration;
        without it all is allowed.
    replaces
        The task cell of a run whose place this one takes once it begins.
    """

    model: str = ""
    max_steps: int | None = None
    data: list[str] | None = None
    save: str | PathLike[str] | None = None
    timeout: float | None = None
    budget: int | None = None
    replay: bool = False
    inputs: Mapping[str, object] | None = None
    outputs: Sequence[str] = ()
    tools: Mapping[str, object] | None = None
    ask: str | None = None
    asker: Ask | None = None
    permit: Permit | None = None
    replaces: NotebookNode | None = None

    def check(self) -> None:
        """See that no option is one that would quietly do something else.

        Raises
        ------
        UsageError
            One is.
        """
        for name in ("data", "outputs"):
            if isinstance(text := getattr(self, name), str):
                raise UsageError(f"{name}={text!r} is one text, not a list; write [{text!r}]")
        for name in ("inputs", "tools"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, Mapping):
                kind = type(value).__name__
                raise UsageError(f"{name} is a {kind}, not a dict; write {{'name': value}}")
        if self.ask and self.ask not in POLICIES:
            raise UsageError(f"ask={self.ask!r} is not known; it is one of {', '.join(POLICIES)}")

    @property
    def limits(self) -> dict[str, Any]:
        """The traits of `Agent` that this run sets for itself."""
        limits = {
            "max_steps": self.max_steps,
            "max_seconds": self.timeout,
            "token_budget": self.budget,
        }
        return {name: limit for name, limit in limits.items() if limit is not None}
