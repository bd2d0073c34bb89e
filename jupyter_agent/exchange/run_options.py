"""The options of a run, as one value: model, values, tools, limits, file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from os import PathLike
from typing import TYPE_CHECKING, Any

from jupyter_agent._arguments import (
    as_list,
    as_number,
    check_argument,
    check_names,
    is_count,
    is_list_of_texts,
)
from jupyter_agent.exchange.approval import POLICIES

if TYPE_CHECKING:
    from jupyter_agent._nbformat import NotebookNode
    from jupyter_agent.exchange.approval import Ask
    from jupyter_agent.exchange.permission import Permit

__all__ = ["RunOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """The options of a run; one that is left out, or None, has the session's value.

    Parameters
    ----------
    model
        The model's name, as -m takes it.
    max_steps
        Maximum number of replies of the model.
    data
        Paths that the sandbox may read; ``["none"]`` for none; None for the paths shared now.
    save
        The file that the run is saved to after every cell; an existing saved run is continued.
    timeout
        Maximum seconds.
    budget
        Maximum number of tokens.
    replay
        Whether a finished run of this task in the file ``save`` is shown again and its code
        run again, instead of asking the model.
    inputs
        Values that the agent finds as variables.
    outputs
        Names of the agent's variables that `Session.results` holds when the run has ended.
    tools
        Functions that the agent may call, by name, besides the session's own.
    ask
        When to ask the user: ``always``, ``risky`` or ``never``; None for the session's setting.
    asker
        Asks the user; without it every question is answered with no.
    permit
        Asks the user for a permission, for what the settings do not allow already; without it
        everything is allowed.
    replaces
        The task cell of an earlier run that this run replaces.
    context
        A text that the model reads before the task, such as what the user's notebook holds.
    told
        What that text holds, in a few words; the run's header says it.
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
    context: str = ""
    told: str = ""

    def __post_init__(self) -> None:
        """Convert arrays, sets and numpy's numbers to Python's own; None is the default."""
        for field in fields(self):
            value = getattr(self, field.name)
            plain = _PLAIN.get(field.name, lambda same: same)(value)
            object.__setattr__(self, field.name, field.default if value is None else plain)

    @classmethod
    def of(cls, options: object, named: Mapping[str, object]) -> RunOptions:
        """Return options with some of their fields replaced.

        Raises
        ------
        UsageError
            They are no options, or a field does not exist or cannot have this value.
        """
        check_argument(
            "options",
            options,
            fits=options is None or isinstance(options, cls),
            wanted="RunOptions, or options given by name, as in model='ollama:NAME'",
        )
        check_names("Session.run", named, (field.name for field in fields(cls)))
        chosen = replace(options if isinstance(options, cls) else cls(), **named)  # type: ignore[arg-type]  # `check` looks at the types
        chosen.check()
        return chosen

    def check(self) -> None:
        """Check each option.

        Raises
        ------
        UsageError
            One has a value that it cannot have.
        """
        for field in fields(self):
            fits, wanted = _CHECKS[field.name]
            value = getattr(self, field.name)
            is_default = value is None and field.default is None
            check_argument(field.name, value, fits=is_default or fits(value), wanted=wanted)

    @property
    def limits(self) -> dict[str, Any]:
        """The traits of `Agent` that this run sets for itself."""
        limits = {
            "max_steps": self.max_steps,
            "max_seconds": self.timeout,
            "token_budget": self.budget,
        }
        return {name: limit for name, limit in limits.items() if limit is not None}


def _are_named(value: object) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def _is_limit(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


_PLAIN: dict[str, Callable[[object], object]] = {
    "max_steps": as_number,
    "data": as_list,
    "timeout": as_number,
    "budget": as_number,
    "outputs": as_list,
}
_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "model": (lambda value: isinstance(value, str), "a model's name, such as 'ollama:NAME'"),
    "max_steps": (is_count, "a whole number above 0"),
    "data": (is_list_of_texts, "a list of paths, such as ['data.csv']"),
    "save": (lambda value: isinstance(value, str | PathLike), "the path of a file"),
    "timeout": (_is_limit, "a number of seconds"),
    "budget": (lambda value: _is_limit(value) and isinstance(value, int), "a number of tokens"),
    "replay": (lambda value: isinstance(value, bool), "True or False"),
    "inputs": (_are_named, "a dict of values by name, such as {'df': df}"),
    "outputs": (is_list_of_texts, "a list of names, such as ['total']"),
    "tools": (_are_named, "a dict of functions by name, such as {'look_up': look_up}"),
    "ask": (lambda value: value in POLICIES, f"one of {', '.join(POLICIES)}"),
    "asker": (callable, "an async function that asks the user"),
    "permit": (callable, "an async function that asks for a permission"),
    "replaces": (lambda value: isinstance(value, dict), "the cell of a task"),
    "context": (lambda value: isinstance(value, str), "a text"),
    "told": (lambda value: isinstance(value, str), "a text"),
}
