"""Run a blocking function on a thread of its own; cancel a task and wait for its end."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

__all__ = ["await_to_its_end", "cancel", "run_in_thread", "run_in_thread_to_its_end"]

T = TypeVar("T")


async def run_in_thread(function: Callable[[], T]) -> T:
    """Run a function on a new thread, and await its result or its exception.

    If this is cancelled, the thread runs on alone. It delays neither other calls (a thread pool
    would fill) nor the end of the process. SystemExit and the like become a RuntimeError.
    """
    return await _begin_in_thread(function)


def _begin_in_thread(function: Callable[[], T]) -> asyncio.Future[T]:
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def finish(result: T | None, error: Exception | None) -> None:
        if done.done():
            return
        if error:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # no error: the function has returned

    def work() -> None:
        result: T | None = None
        failure: Exception | None = None
        try:
            result = context.run(function)
        except StopIteration as error:  # a future does not accept it
            failure = RuntimeError(f"StopIteration: {error}")
        except Exception as error:
            failure = error
        except BaseException as error:
            failure = RuntimeError(f"{type(error).__name__}: {error}")
        with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
            loop.call_soon_threadsafe(finish, result, failure)

    context = contextvars.copy_context()
    threading.Thread(target=work, name="jupyter_agent thread", daemon=True).start()
    return done


async def run_in_thread_to_its_end(function: Callable[[], T]) -> T:
    """Do the same, and where this is cancelled wait for the end of what must not go on alone."""
    return await await_to_its_end(_begin_in_thread(function))  # no task: those may all be cancelled


async def await_to_its_end(work: asyncio.Future[T]) -> T:
    """Await what must not go on alone: a cancellation, or several, come after its end."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled:
        if not work.cancelled():
            work.exception()  # else the loop would say that nobody has asked
        raise cancelled
    return work.result()


async def cancel(task: asyncio.Task[T]) -> None:
    """End a task, and wait until it has ended, however it does."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()  # else the loop would say that nobody has asked
