"""Run coroutines from synchronous code, such as a magic, and cancel them on an interrupt.

They run on one event loop in a thread that lives as long as the process, because a sandbox dies
with the thread that started it, and its sockets belong to a loop. An interrupt cancels what runs
there and waits for its cleanup (with `jupyter_core.utils.run_sync` it would run on).
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
        self._tasks: dict[int, asyncio.Task[Any]] = {}  # the task that each thread waits for
        self._iterating: set[int] = set()  # threads that iterate a generator
        self._steps: dict[int, asyncio.Task[Any] | None] = {}  # the last step of each generator
        self._early: set[int] = set()  # threads whose next step is interrupted
        self._in_main_call = False  # whether the main thread is in a `call_in_main_thread`
        threading.Thread(target=self._loop.run_forever, name="jupyter_agent", daemon=True).start()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine and return its result; a KeyboardInterrupt cancels it.

        While the main thread waits here, it runs the functions given to `call_in_main_thread`.
        """
        result: Future[T] = Future()
        thread = threading.get_ident()
        main_calls = self._main_calls[thread]

        def begin() -> None:  # in the caller's context, where IPython keeps the current cell
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
                elif (
                    thread in self._iterating
                ):  # the next step is cancelled, and this item is not lost
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

    def stop(self, thread: int | None = None) -> bool:
        """Interrupt what a thread waits for, by default the main one; tell if there was anything.

        Called from a subshell. Between two steps of a generator, the next step is interrupted.
        """
        thread = thread or threading.main_thread().ident or 0
        task = self._tasks.get(thread)
        if thread not in self._iterating and (task is None or task.done()):
            return False
        self._loop.call_soon_threadsafe(self._interrupt, thread, task)
        return True

    def _interrupt(self, thread: int, task: asyncio.Task[Any] | None) -> None:
        """Cancel what a thread waits for, or the current step of its generator.

        A step is cancelled only after it has begun, or the generator would not notice.
        """
        self._early.discard(thread)
        if thread in self._iterating:  # the cleanup after the last step is not cancelled
            task = self._steps.get(thread)
        if task and not task.done():
            task.cancel()
        elif thread in self._iterating:
            self._early.add(thread)

    async def call_in_main_thread(self, function: Callable[[], T]) -> T:
        """Call a function, such as `input`, in the main thread, which waits in `call`."""
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
        """Iterate an async generator; after an interrupt it may still yield its last items."""
        steps: list[asyncio.Task[Any]] = []

        async def step() -> T:
            task = self._steps[thread] = asyncio.current_task()
            steps[:] = filter(None, [task])
            if thread in self._iterating & self._early:
                self._loop.call_soon(self._interrupt, thread, task)
            return await anext(source, _END)

        async def close() -> None:
            """End a step that an interrupt left running, then the generator."""
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
        """Make an interrupt cancel a step, or what runs for it in the main thread.

        A KeyboardInterrupt between two steps would end the iteration and lose its last items: text
        that was paid for, and how the run ended.
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
    """Return the process's event loop thread; made on first use."""
    return EventLoopThread()
