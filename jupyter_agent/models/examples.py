"""Example runs that show a small model how to reply.

Their order and words were chosen by trial on SmolLM2, with other names than the tasks tried. Each
token of its reply in `make demo` is at least five times as probable as the next best, so that a CPU
that rounds otherwise gives the same reply. Many of its other replies are wrong.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["EXAMPLES", "Example"]


class Example(NamedTuple):
    """A run of one step."""

    task: str
    prose: str
    code: str
    output: str
    answer: str


EXAMPLES = (
    Example(
        "What is 12 + 30?",
        "I will add the two numbers.",
        "print(12 + 30)",
        "42",
        "12 + 30 is **42**.",
    ),
    Example(
        "How many rows does sales.csv have?\n\nFiles you can read here: sales.csv",
        "I will read the file and count its rows.",
        'import pandas as pd\n\ndf = pd.read_csv("sales.csv")\nprint(len(df))',
        "120",
        "sales.csv has **120** rows.",
    ),
    Example(
        "How many rows in cars.csv have color Red?\n\nFiles you can read here: cars.csv",
        "I will count the rows where color is Red.",
        'import pandas as pd\n\ndf = pd.read_csv("cars.csv")\nprint(len(df[df["color"] == "Red"]))',
        "7",
        "**7** rows in cars.csv have the color Red.",
    ),
    Example(
        "What is the square root of 2?",
        "I will use the function math.sqrt.",
        "import math\n\nprint(math.sqrt(2))",
        "1.4142135623730951",
        "The square root of 2 is about **1.4142**.",
    ),
    Example(
        "How many rows in people.csv have city Paris?\n\nFiles you can read here: people.csv",
        "I will count the rows where city is Paris.",
        'import pandas as pd\n\ndf = pd.read_csv("people.csv")\n'
        'print(len(df[df["city"] == "Paris"]))',
        "3",
        "**3** rows in people.csv have the city Paris.",
    ),
)
