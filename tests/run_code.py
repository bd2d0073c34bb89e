"""Run code in a sandbox, and read what it puts out."""

from __future__ import annotations

from contextlib import aclosing

from nbformat import NotebookNode

from jupyter_agent.sandbox.client import Sandbox


async def outputs(sandbox: Sandbox, code: str) -> list[NotebookNode]:
    async with aclosing(sandbox.execute(code)) as found:
        return [output async for output in found]


async def text(sandbox: Sandbox, code: str) -> str:
    """What code prints, or the name and value of its error."""
    parts = [
        output.get("text") or output.get("data", {}).get("text/plain") or output.ename
        for output in await outputs(sandbox, code)
    ]
    return "".join(parts).strip()


async def attempt(sandbox: Sandbox, code: str) -> str:
    """What an expression gives, or the name of its error."""
    return await text(
        sandbox, f"try:\n    print({code})\nexcept BaseException as e:\n    print(type(e).__name__)"
    )
