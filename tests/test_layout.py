"""The shape of the package: who may import whom, and how large its core is."""

from __future__ import annotations

import ast
import graphlib
import importlib
import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "jupyter_agent"
# From the top to the bottom: a package imports from itself and from the rows below it; a module
# that stands alone also from others of its row.
LAYERS = [
    ["frontends", "kernel"],
    ["session", "resume"],
    ["agent", "exchange", "views"],
    ["transcript"],
    ["models"],
    ["sandbox"],
    [
        "errors",
        "settings",
        "_arguments",
        "_files",
        "_nbformat",
        "_one_at_a_time",
        "_sockets",
        "_threads",
        "_traits",
        "_unicode",
    ],
]
# What is meant to be read in one evening: the loop, the notebook, and how replies are read
CORE = [
    "agent",
    "transcript",
    "models.protocol",
    "models.parser",
    "models.fences",
    "models.code_blocks",
    "models.text_calls",
    "models.native_calls",
]
MAX_CORE = 2_900  # code lines
GUEST = ["sandbox", "sandbox.__main__", "sandbox.guest"]  # run inside the sandbox
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in PACKAGE.rglob("*.py")
}


def package(name: str) -> str:
    return name.split(".")[0]


def layer(name: str) -> int:
    [found] = [number for number, names in enumerate(LAYERS) if package(name) in names]
    return found


def runs_in_the_sandbox(name: str) -> bool:
    return name in GUEST or name.startswith("sandbox.guest.")


def imported(name: str, prefix: str = "jupyter_agent") -> set[str]:
    """Name the modules of ours that a module imports, wherever the import stands."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        match node:
            case ast.ImportFrom(module=str(module)) if module == prefix:
                found |= {alias.name for alias in node.names if alias.name in MODULES}
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


def test_every_package_has_a_layer() -> None:
    packages = {package(name) for name in MODULES} - {"__init__"}
    assert sorted(name for names in LAYERS for name in names) == sorted(packages)


def test_no_import_goes_up() -> None:
    for name in MODULES.keys() - {"__init__"}:
        for other in imported(name):
            alone = name in {path.stem for path in PACKAGE.glob("*.py")}
            below = layer(other) > layer(name) or (alone and layer(other) == layer(name))
            assert package(other) == package(name) or below, (name, other)


def test_no_imports_form_a_circle() -> None:
    graph = {name: imported(name) for name in MODULES if name != "__init__"}
    graphlib.TopologicalSorter(graph).prepare()


def test_no_two_classes_have_one_name() -> None:
    names = [
        node.name
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    ]
    assert sorted(set(names)) == sorted(names)


def test_what_runs_in_the_sandbox_imports_nothing_of_ours_but_itself() -> None:
    for name in filter(runs_in_the_sandbox, MODULES):
        assert all(map(runs_in_the_sandbox, imported(name))), name


def test_the_core_can_be_read_in_an_evening() -> None:
    core = [path for name, path in MODULES.items() if {name, package(name)} & {*CORE}]
    assert sum(map(code_lines, core)) <= MAX_CORE


def test_public_names_are_declared() -> None:
    for name in sorted(MODULES):
        if runs_in_the_sandbox(name):
            continue
        module = importlib.import_module(f"jupyter_agent.{name}".removesuffix(".__init__"))
        if MODULES[name].name != "__init__.py" or hasattr(module, "__all__"):
            assert all(hasattr(module, public) for public in module.__all__), name


def test_no_two_modules_have_one_name() -> None:
    names = [path.stem for path in MODULES.values() if path.stem != "__init__"]
    assert {name for name in names if names.count(name) > 1} == set()


def test_nbformat_has_one_way_in() -> None:
    for name, path in MODULES.items():
        if name != "_nbformat":
            source = path.read_text()
            assert not re.search(r"^\s*(from|import) nbformat", source, re.MULTILINE), name


def test_a_grammar_that_nobody_asked_for_is_not_built() -> None:
    code = (
        "import sys, jupyter_agent.session, jupyter_agent.kernel, jupyter_agent.frontends.cli\n"
        "assert 'rfc3987_syntax' not in sys.modules\n"
        "from jsonschema import FormatChecker\n"  # and all the same it checks
        "says = FormatChecker().conforms\n"
        "assert says('http://bücher.example/', 'iri') and not says('http://a b/', 'iri')\n"
        "import rfc3987_syntax\n"
        "assert rfc3987_syntax.parse('iri', 'http://bücher.example/')\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
