"""The shape of the package: who may import whom, and how large its core may grow."""

from __future__ import annotations

import ast
import importlib
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "jupyter_agent"
LAYERS = [
    {"__init__", "aside", "errors", "protocol", "options", "bridge", "pictures", "examples"}
    | {"ipynb", "temporary", "invisibles"},
    {"growing", "hostcells", "models.blocks", "settings", "turns", "writing"},
    {"models.call_reader"},
    {"models.block_reader"},
    {"bill", "records", "views.runs", "sandbox.guest_files", "sandbox.guest_values"}
    | {"sandbox.guest_display", "sandbox.lockdown", "sandbox.shm", "sandbox.shm.sitecustomize"}
    | {"sandbox.shm._multiprocessing", "sandbox.shm._posixshmem"}
    | {
        "sandbox.svg",
        "sandbox.tex",
        "sandbox.places",
        "sandbox.secret_files",
        "sandbox.system_calls",
    },
    {
        "sandbox.figures",
        "sandbox.guest_hints",
        "sandbox.guest_calls",
        "sandbox.markdown",
        "sandbox.html",
        "sandbox.wire",
        "saving",
    },
    {
        "sandbox.guest",
        "sandbox.supervisor",
        "sandbox.folders",
        "sandbox.cleaning",
        "sandbox.memory",
        "sandbox.messages",
    },
    {"sandbox.__main__", "sandbox.cgroup", "sandbox.files", "sandbox.outputs", "transcript"}
    | {"models.bounds", "models.calls", "models.faults", "models.parser"},
    {
        "ask",
        "draft",
        "models.ends",
        "models.events",
        "models.remote",
        "sandbox.interpreter",
        "sandbox.pace",
        "sandbox.replies",
        "sandbox.widgets",
        "summary",
        "values",
    },
    {"sandbox.debugger", "sandbox.newcomers", "sandbox.paths"},
    {"sandbox.bubblewrap"},
    {"sandbox.provisioner"},
    {"sandbox.kernel", "models.local", "models.scripted"}
    | {"models.anthropic", "models.hub", "models.openai"},
    {"models", "sandbox", "tools"},
    {"request"},
    {"agent", "border", "owncells"},
    {"views", "views.display", "views.terminal"},
    {"permission"},
    {"sandbox.install", "session", "doctor"},
    {"commands", "command_line"},
    {"magics", "kernel", "cli"},
]
# what carries a run
LOOP = ["errors", "protocol", "bill", "pictures", "transcript", "summary", "draft", "request"]
LOOP += ["models", "models.ends", "agent", "writing", "saving", "growing"]
REPLIES = ["models.blocks", "models.block_reader", "models.call_reader", "models.parser"]
BORDER = [
    "hostcells",
    "invisibles",
    "permission",
    "ask",
    "border",
    "records",
    "sandbox.guest_calls",
    "sandbox.guest_values",
    "tools",
    "values",
]
SANDBOX = [name for layer in LAYERS for name in layer if name.startswith("sandbox")]
OPTIONAL = ["sandbox.debugger", "sandbox.widgets"]  # off by default, and each to be read alone
STAND_INS = [name for layer in LAYERS for name in layer if name.startswith("sandbox.shm")]
# which of the user's files are shared, and how they appear inside: to be read alone, too
SHARED = ["files", "guest_files", "guest_hints", "newcomers", "places", "secret_files"]
SHARED = [f"sandbox.{name}" for name in SHARED]
SANDBOX = [
    name
    for name in SANDBOX
    if name not in [*BORDER, *OPTIONAL, *STAND_INS, *SHARED, "sandbox.install"]
]  # a door
GUEST = [
    "sandbox.__main__",
    "sandbox.guest",
    "sandbox.guest_calls",
    "sandbox.guest_display",
    "sandbox.guest_files",
    "sandbox.guest_hints",
    "sandbox.guest_values",
    "sandbox.lockdown",
    *STAND_INS,
    "sandbox.supervisor",
    "sandbox.system_calls",
]
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def imported(name: str, prefix: str = "jupyter_agent") -> set[str]:
    """Name the modules of ours that a module imports, wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        match node:
            case ast.ImportFrom(module=str(module)) if module == prefix:
                found |= {alias.name for alias in node.names if alias.name in MODULES}
                found |= {"__init__"} if "__version__" in {a.name for a in node.names} else set()
            case ast.ImportFrom(module=str(module)) if module.startswith(prefix + "."):
                inner = module.removeprefix(prefix + ".")
                below = {f"{inner}.{alias.name}" for alias in node.names}
                found |= (below & MODULES.keys()) or {inner}
    return found


def code_lines(path: Path) -> int:
    """Count the lines that hold code: no blanks, comments or docstrings."""
    source = path.read_text()
    kinds = {tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING}
    lines = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type in kinds
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, (node.end_lineno or 0) + 1))
    return len(lines)


def test_every_module_has_a_layer() -> None:
    assert set().union(*LAYERS) == set(MODULES)


@pytest.mark.parametrize("layer", range(len(LAYERS)))
def test_modules_import_only_from_layers_below(layer: int) -> None:
    below: set[str] = set().union(*LAYERS[:layer])
    for name in LAYERS[layer] - {"__init__"}:
        assert imported(name) <= below, name


def test_what_runs_in_the_sandbox_imports_nothing_of_ours_but_itself() -> None:
    for name in GUEST:
        assert imported(name) <= {"sandbox", *GUEST}, name


def test_public_names_are_declared() -> None:
    for name in sorted(MODULES):
        if name in ("sandbox", "views", *GUEST):
            continue
        module = importlib.import_module(f"jupyter_agent.{name}".removesuffix(".__init__"))
        assert all(hasattr(module, public) for public in module.__all__), name


def test_nbformat_has_one_way_in() -> None:
    for name, path in MODULES.items():
        if name != "ipynb":
            assert not re.search(r"^\s*(from|import) nbformat", path.read_text(), re.MULTILINE), (
                name
            )


def test_a_grammar_that_nobody_asked_for_is_not_built() -> None:
    code = (
        "import sys, jupyter_agent.session, jupyter_agent.kernel, jupyter_agent.cli\n"
        "assert 'rfc3987_syntax' not in sys.modules\n"
        "from jsonschema import FormatChecker\n"  # and all the same it checks
        "says = FormatChecker().conforms\n"
        "assert says('http://bücher.example/', 'iri') and not says('http://a b/', 'iri')\n"
        "import rfc3987_syntax\n"
        "assert rfc3987_syntax.parse('iri', 'http://bücher.example/')\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.parametrize(
    ("names", "most"),
    [
        (LOOP, 2000),
        (REPLIES, 899),
        (SANDBOX, 5100),
        (SHARED, 1580),
        (BORDER, 1800),
        (OPTIONAL, 400),
        (STAND_INS, 150),
    ],
)
def test_the_core_stays_small_enough_to_read(names: list[str], most: int) -> None:
    sizes = {name: code_lines(MODULES[name]) for name in names}
    assert sum(sizes.values()) <= most, sizes
