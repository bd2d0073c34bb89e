"""Example runs that show a small model how to reply.

Their order and words were chosen by trial on SmolLM2, with other names than the tasks tried. It
copies the last of them most, so that is one which does not tempt it to misread a file.
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
        "What is the mean age in people.csv?\n\nFiles you can read here: people.csv",
        "I will read the file and take the mean of the column.",
        'import pandas as pd\n\ndf = pd.read_csv("people.csv")\nprint(df["age"].mean())',
        "37.5",
        "The mean age in people.csv is **37.5** years.",
    ),
    Example(
        "How many people in people.csv live in Paris city?\n\nFiles you can read here: people.csv",
        "I will read the file and count the rows where the city is Paris.",
        'import pandas as pd\n\ndf = pd.read_csv("people.csv")\n'
        'print(len(df[df["city"] == "Paris"]))',
        "3",
        "**3** people in people.csv live in Paris.",
    ),
    Example(
        "How many rows does sales.csv have?\n\nFiles you can read here: sales.csv",
        "I will read the file and count its rows.",
        'import pandas as pd\n\ndf = pd.read_csv("sales.csv")\nprint(len(df))',
        "120",
        "sales.csv has **120** rows.",
    ),
    Example(
        "What is the square root of 2?",
        "I will use the function math.sqrt.",
        "import math\n\nprint(math.sqrt(2))",
        "1.4142135623730951",
        "The square root of 2 is about **1.4142**.",
    ),
)
