"""The parts of the docs that are generated from the code: the map of modules, the table of settings.

``python -m tests.generated`` (``make docs``) writes them; ``--lines`` prints the code lines of each
package instead. `tests/test_generated.py` sees to it that the files hold what this gives.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from traitlets import HasTraits, TraitType

from jupyter_agent._traits import Seconds
from jupyter_agent.settings import CLASSES

from .test_layout import LAYERS, MODULES, PACKAGE, code_lines

ROOT = PACKAGE.parent
EXTENSION = PACKAGE / "labextension" / "static"
WIDTH = 22  # characters that the name of a module may take before what it does begins
ORDER = [
    "Session",
    "Agent",
    "Sandbox",
    "SandboxProvisioner",
    "AgentMagics",
    "AgentKernel",
]  # of the settings
UNITS = {"_mib": "MiB", "_seconds": "seconds"}  # by how a name ends


def put(path: Path, name: str, text: str) -> str:
    """Give a file's text with another part between the marks ``<!-- name -->``."""
    before, begin, rest = path.read_text().partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    assert end, f"{path} has no part {name}"
    return f"{before}{begin}{text}{end}{after}"


def documents() -> dict[Path, str]:
    """Give each file that has a generated part, as it should be."""
    contributing, settings = ROOT / "CONTRIBUTING.md", ROOT / "docs" / "settings.md"
    return {
        contributing: put(contributing, "map", house()),
        settings: put(settings, "settings", table_of_settings()),
    }


# -- the map


def house() -> str:
    """Draw the packages from the top layer to the bottom one, each with its modules."""
    drawn = ["```", "jupyter_agent/"]
    for number, names in zip(range(len(LAYERS), 0, -1), LAYERS, strict=True):
        for name in names:
            drawn += package(name, number)
    drawn += [
        line(1, "labextension/", "JupyterLab's side of live cells: plain JavaScript, no build")
    ]
    drawn += [line(2, path.name, comment(path)) for path in sorted(EXTENSION.glob("*.js"))]
    return "\n".join([*drawn, "```", ""])


def package(name: str, number: int) -> Iterator[str]:
    """Draw a package of a layer, and its modules below it; or a module that stands alone."""
    yield line(1, title(name), f"[{number}] {docstring(name)}")
    inner = [other for other in MODULES if other.startswith(f"{name}.")]
    for other in sorted(inner, key=lambda other: (folder(other) != name, other)):
        yield line(other.count(".") + 1, title(other), docstring(other))


def folder(name: str) -> str:
    """Name the package that a module is listed in: a package heads its own list."""
    return name if MODULES[name].name == "__init__.py" else name.rpartition(".")[0]


def title(name: str) -> str:
    """Name a module's file, or a package's folder."""
    path = MODULES[name]
    return f"{path.parent.name}/" if path.name == "__init__.py" else path.name


def docstring(name: str) -> str:
    """Give the first line of a module's docstring, as plain text."""
    found = ast.get_docstring(ast.parse(MODULES[name].read_text()))
    assert found, f"{MODULES[name]} has no docstring"
    return found.splitlines()[0].replace("`", "").removesuffix(".")


def comment(path: Path) -> str:
    """Give the first sentence of the first comment of a module in JavaScript."""
    found = re.search(r"/\* (.*?)(\.\s|\*/)", path.read_text(), re.DOTALL)
    assert found, f"{path} has no comment that says what it is for"
    return " ".join(found[1].replace("\n *", " ").split()).removesuffix(".")


def line(depth: int, name: str, says: str) -> str:
    """Draw one line of the map."""
    return f"{'  ' * depth}{name:<{WIDTH}}  {says}"


# -- the settings


def table_of_settings() -> str:
    """List each setting with its default, its unit and its help."""
    rows = ["| setting | default | unit | |", "|---|---|---|---|"]
    assert sorted(ORDER) == sorted(CLASSES)
    for owner in ORDER:
        found = getattr(import_module(f"jupyter_agent.{CLASSES[owner]}"), owner)
        rows += [row(owner, name, trait) for name, trait in traits(found)]
    return "\n".join([*rows, ""])


def traits(owner: type[HasTraits]) -> list[tuple[str, TraitType[Any, Any]]]:
    """Give the settings that a class declares; one without a help is its base's."""
    own = owner.class_own_traits(config=True)
    return [(name, own[name]) for name in vars(owner) if name in own and own[name].help]


def row(owner: str, name: str, trait: TraitType[Any, Any]) -> str:
    """Write the row of one setting."""
    default = trait.default()
    words = " ".join(str(trait.help).split()).replace("|", "\\|").replace("*", "\\*")
    return f"| `{owner}.{name}` | `{default!r}` | {unit(name, trait)} | {words} |"


def unit(name: str, trait: TraitType[Any, Any]) -> str:
    """Tell the unit of a number from its type, or from how its name ends."""
    if isinstance(trait, Seconds):
        return "seconds"
    return next((unit for ending, unit in UNITS.items() if name.endswith(ending)), "")


# -- the command line


def lines() -> Iterator[str]:
    """Count the code lines of each package, and of all."""
    counts: dict[str, int] = {}
    for name, path in MODULES.items():
        counts[folder(name)] = counts.get(folder(name), 0) + code_lines(path)
    for name, count in sorted(counts.items()):
        yield f"{count:6,}  {name or '(modules that stand alone)'}"
    yield f"{sum(counts.values()):6,}  in all"


def main() -> None:
    """Write the generated parts, or print code lines."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--lines", action="store_true", help="print the code lines of each package")
    if parser.parse_args().lines:
        print("\n".join(lines()))
        return
    for path, text in documents().items():
        path.write_text(text)


if __name__ == "__main__":
    main()
