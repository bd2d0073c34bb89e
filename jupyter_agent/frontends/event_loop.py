"""Run coroutines from synchronous code, such as a magic, and cancel them on an interrupt.

They run on one event loop in one thread that lives as long as the process: a sandbox dies with the
thread that started it, and its sockets belong to a loop. An interrupt cancels what runs there and
waits until it has tidied up (`jupyter_core.utils.run_sync` lets it go on).
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import queue
import signal
import threading
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from concurrent.futures import Future
from types import FrameType
from typing import Any, TypeVar

__all__ = ["EventLoopThread", "shared_loop"]

T = TypeVar("T")
_MainCall = Callable[[], None]
_END: Any = object()


class EventLoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._main_calls: defaultdict[int, queue.SimpleQueue[_MainCall | None]] = defaultdict(
            queue.SimpleQueue
        )
        self._tasks: dict[int, asyncio.Task[Any]] = {}  # what each thread waits for
        self._iterating: set[int] = set()  # threads amid the steps of a generator
        self._steps: dict[int, asyncio.Task[Any] | None] = {}  # those that have begun last
        self._early: set[int] = set()  # those whose next step is interrupted
        self._in_main_call = False  # whether the main thread is in a `call_in_main_thread`
        threading.Thread(target=self._loop.run_forever, name="jupyter_agent", daemon=True).start()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and return its result; a KeyboardInterrupt cancels it first.

        Meanwhile the main thread calls what the coroutine gives to `call_in_main_thread`.
        """
        result: Future[T] = Future()
        thread = threading.get_ident()
        main_calls = self._main_calls[thread]

        def begin() -> None:  # in the caller's context: IPython keeps the current cell there
            task = self._tasks[thread] = self._loop.create_task(coroutine)
            task.add_done_callback(functools.partial(_hand_over, result, main_calls))

        self._loop.call_soon_threadsafe(begin)
        while True:
            try:
                main_call = main_calls.get()
                if main_call:
                    self._do(main_call)
                if result.done():
                    return result.result()
            except KeyboardInterrupt:
                if not result.done():
                    self._loop.call_soon_threadsafe(
                        lambda: self._interrupt(thread, self._tasks[thread])
                    )
                elif thread in self._iterating:  # the next step hears it, and the item is kept
                    self._early.add(thread)
                    return result.result()
                else:
                    raise

    def _do(self, main_call: _MainCall) -> None:
        self._in_main_call = True
        try:
            main_call()
        finally:
            self._in_main_call = False

    def stop(self) -> bool:
        """Interrupt what the main thread waits for, as from a subshell; tell if there was any.

        Between two steps of a generator it waits for nothing: then the next step is interrupted.
        """
        thread = threading.main_thread().ident or 0
        task = self._tasks.get(thread)
        if thread not in self._iterating and (task is None or task.done()):
            return False
        self._loop.call_soon_threadsafe(self._interrupt, thread, task)
        return True

    def _interrupt(self, thread: int, task: asyncio.Task[Any] | None) -> None:
        """Cancel what a thread waited for, or the step of its generator that came after.

        A step that has not begun is not cancelled before it has: the generator would hear nothing.
        """
        self._early.discard(thread)
        if thread in self._iterating:  # what ends a run, or comes after one, goes on in peace
            task = self._steps.get(thread)
        if task and not task.done():
            task.cancel()
        elif thread in self._iterating:
            self._early.add(thread)

    async def call_in_main_thread(self, function: Callable[[], T]) -> T:
        """Have the main thread call a function, such as `input`, while it waits for us."""
        done: Future[T] = Future()

        def main_call() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)
                if isinstance(error, KeyboardInterrupt):
                    raise

        self._main_calls[threading.main_thread().ident or 0].put(main_call)
        return await asyncio.wrap_future(done)

    def iterate(self, source: AsyncGenerator[T, None]) -> Generator[T, None, None]:
        """Iterate an async generator. After an interrupt it may still yield its last items."""
        steps: list[asyncio.Task[Any]] = []

        async def step() -> T:
            task = self._steps[thread] = asyncio.current_task()
            steps[:] = filter(None, [task])
            if thread in self._iterating & self._early:
                self._loop.call_soon(self._interrupt, thread, task)
            return await anext(source, _END)

        async def close() -> None:
            """End a step that an interrupt has left behind, then the generator itself."""
            for left in steps:
                left.cancel()
            if steps:
                await asyncio.wait(steps)
            await source.aclose()

        thread = threading.get_ident()
        self._early.discard(thread)
        self._steps.pop(thread, None)
        self._iterating.add(thread)
        try:
            with self._deferring():
                while (item := self.call(step())) is not _END:
                    yield item
        finally:
            self._iterating.discard(thread)
            self._early.discard(thread)
            self.call(close())

    @contextlib.contextmanager
    def _deferring(self) -> Iterator[None]:
        """Have the steps hear interrupts, and what is done here for one, but nothing between them.

        There an exception would end the iteration, and the last items would be lost: what was paid
        for, and how the run ended.
        """
        before = signal.default_int_handler
        main = threading.current_thread() is threading.main_thread()
        if not main or signal.getsignal(signal.SIGINT) is not before:
            yield
            return

        def hear(number: int, frame: FrameType | None) -> None:
            if self._in_main_call:
                signal.default_int_handler(number, frame)
            self.stop()

        signal.signal(signal.SIGINT, hear)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def _hand_over(
    result: Future[T], main_calls: queue.SimpleQueue[_MainCall | None], task: asyncio.Task[T]
) -> None:
    if task.cancelled():
        result.set_exception(KeyboardInterrupt())
    elif error := task.exception():
        result.set_exception(error)
    else:
        result.set_result(task.result())
    main_calls.put(None)


@functools.cache
def shared_loop() -> EventLoopThread:
    """Return the process's bridge, made when first asked for."""
    return EventLoopThread()
