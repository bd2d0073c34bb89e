"""The loop: a stop is heard whenever it comes, and only by the run it was meant for."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from types import FrameType
from typing import Any

import pytest

from jupyter_agent.frontends.event_loop import EventLoopThread


@pytest.fixture(autouse=True)
def hear_interrupts() -> Iterator[None]:
    """Do as in a terminal; what a script has started in the background ignores interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


async def counting(heard: list[str]) -> AsyncGenerator[int, None]:
    """Yield two numbers, then wait; yield a last one when interrupted, as a run does."""
    try:
        yield 1
        yield 2
        await asyncio.sleep(20)
    except asyncio.CancelledError:
        heard.append("interrupted")
        yield 3
        raise
    finally:
        heard.append("closed")


def stopped(loop: EventLoopThread) -> bool:
    """Stop from another thread, as from a subshell."""
    told: list[bool] = []
    thread = threading.Thread(target=lambda: told.append(loop.stop()))
    thread.start()
    thread.join()
    return told[0]


@pytest.mark.parametrize("after", [1, 2])
def test_a_stop_between_two_steps_is_heard(after: int) -> None:
    loop, heard, seen = EventLoopThread(), list[str](), list[int]()
    with pytest.raises(KeyboardInterrupt):
        for number in loop.iterate(counting(heard)):
            seen.append(number)
            if number == after:
                assert stopped(loop)
    assert seen == [1, 2, 3]
    assert heard == ["interrupted", "closed"]


def test_a_stop_while_a_step_runs_is_heard() -> None:
    loop, heard = EventLoopThread(), list[str]()
    timer = threading.Timer(0.2, lambda: loop.stop())
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        list(loop.iterate(counting(heard)))
    assert heard == ["interrupted", "closed"]


@pytest.mark.parametrize("after", [1, 2])
def test_an_interrupt_while_an_item_is_shown_waits_for_the_next_step(after: int) -> None:
    loop, heard, seen = EventLoopThread(), list[str](), list[int]()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        for number in loop.iterate(counting(heard)):
            if number in (after, 3):  # and somebody presses Stop again
                signal.raise_signal(signal.SIGINT)
            seen.append(number)
    assert seen == [1, 2, 3]
    assert heard == ["interrupted", "closed"]
    assert signal.getsignal(signal.SIGINT) is before


def test_an_interrupt_as_a_step_is_asked_for_is_heard_by_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, heard, seen = EventLoopThread(), list[str](), list[int]()
    send = loop._loop.call_soon_threadsafe

    def send_and_be_interrupted(*args: Any) -> None:
        send(*args)
        if seen == [1]:
            seen.append(0)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(loop._loop, "call_soon_threadsafe", send_and_be_interrupted)
    with pytest.raises(KeyboardInterrupt):
        for number in loop.iterate(counting(heard)):
            seen.append(number)
    assert seen[-1] == 3
    assert heard == ["interrupted", "closed"]


def test_an_interrupt_of_what_is_done_here_is_raised_in_it() -> None:
    loop, heard = EventLoopThread(), list[str]()

    def question() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            heard.append("asked")
            raise

    async def run() -> AsyncGenerator[int, None]:
        with contextlib.suppress(KeyboardInterrupt):
            await loop.call_in_main_thread(question)
        await asyncio.sleep(20)
        yield 1

    with pytest.raises(KeyboardInterrupt):
        list(loop.iterate(run()))
    assert heard == ["asked"]


def test_an_interrupt_as_an_item_is_handed_over_waits_for_the_next_step() -> None:
    loop, heard, seen = EventLoopThread(), list[str](), list[int]()
    thread = threading.get_ident()

    def interrupt_once_it_is_there() -> None:
        while not loop._tasks[thread].done():
            time.sleep(0.01)
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop._loop).result()
        raise KeyboardInterrupt

    async def run() -> AsyncGenerator[int, None]:
        loop._main_calls[thread].put(interrupt_once_it_is_there)
        async for number in counting(heard):
            yield number

    with pytest.raises(KeyboardInterrupt):
        for number in loop.iterate(run()):
            seen.append(number)  # as far as it comes
    assert (seen[0], seen[-1]) == (1, 3)
    assert heard == ["interrupted", "closed"]


def test_a_stop_is_for_its_own_run_alone() -> None:
    loop, heard = EventLoopThread(), list[str]()
    assert not stopped(loop)
    run = loop.iterate(counting(heard))
    assert next(run) == 1
    assert stopped(loop)  # and the run is given up before it hears
    run.close()
    assert heard == ["closed"]
    assert not stopped(loop)
    run = loop.iterate(counting(heard))
    assert [next(run), next(run)] == [1, 2]
    run.close()
    assert loop.call(asyncio.sleep(0.1, "whole")) == "whole"


def test_a_stop_that_comes_too_late_lets_what_ends_a_run_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, closed = EventLoopThread(), list[str]()
    decided, closing = threading.Event(), threading.Event()
    send = loop._loop.call_soon_threadsafe

    def send_late(*args: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            decided.set()
            closing.wait(20)
        send(*args)

    async def run() -> AsyncGenerator[int, None]:
        try:
            yield 1
        finally:
            closing.set()
            await asyncio.sleep(0.3)
            closed.append("tidily")

    steps = loop.iterate(run())
    assert next(steps) == 1
    monkeypatch.setattr(loop._loop, "call_soon_threadsafe", send_late)
    stopping = threading.Thread(target=loop.stop)
    stopping.start()
    assert decided.wait(20)
    steps.close()
    stopping.join()
    assert closed == ["tidily"]


# where it comes before a coroutine begins, Python says that nobody has awaited that
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_an_interrupt_at_any_line_of_the_bridge_is_an_interrupt() -> None:
    loop = EventLoopThread()
    lines = 0  # that have been come by

    def interrupt_at(line: int) -> Any:
        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal lines
            if not frame.f_code.co_filename.endswith("event_loop.py"):
                return None
            if event == "line":
                lines += 1
                if lines == line:
                    raise KeyboardInterrupt
            return trace

        return trace

    async def run() -> AsyncGenerator[int, None]:
        for number in range(2):
            await asyncio.sleep(0)
            yield number

    line = 0
    while lines >= line:
        lines, line = 0, line + 1
        steps = loop.iterate(run())
        before = sys.gettrace()
        sys.settrace(interrupt_at(line))
        try:
            list(steps)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(before)
        assert loop.call(asyncio.sleep(0, "whole")) == "whole"
    assert line > 30
