"""What an install weighs: packages and mebibytes over an empty environment.

Everything is installed into a fresh virtual environment, so this takes a minute.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parent.parent
AIMS = "aim: at most 55 packages, 110 MiB"
MIB = 1 << 20


def weigh(folder: Path) -> tuple[int, float]:
    """Count the distributions of an environment, and its mebibytes, compiled files included."""
    [library] = folder.glob("lib/python*/site-packages")
    packages = len(list(library.glob("*.dist-info")))
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return packages, sum(path.stat().st_size for path in files) / MIB


def main() -> None:
    """Weigh the environment empty, then with the project and with each extra for a vendor."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        packages, mebibytes = weigh(Path(folder))
        for what in ("", "[openai]", "[openai,anthropic]"):
            pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet"]
            subprocess.run([*pip, f"{PROJECT}{what}"], check=True)
            more, larger = weigh(Path(folder))
            aim = "" if what else AIMS
            name = f"jupyter-agent-kernel{what}"
            print(f"{name:<40}{more - packages:4} packages{larger - mebibytes:8.1f} MiB   {aim}")


if __name__ == "__main__":
    main()
