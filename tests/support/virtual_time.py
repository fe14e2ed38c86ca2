"""An event loop whose clock jumps to the next timer instead of waiting for it.

It suits code that waits only for timers and its own tasks: sockets are polled, but never awaited.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

Value = TypeVar("Value")
Arguments = ParamSpec("Arguments")


class Stuck(Exception):
    """Nothing is ready and no timer is set: the waiting tasks would wait for ever."""


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready:
            return ready
        if timeout is None:
            raise Stuck
        self.now += timeout
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now

    def run_in_executor(  # type: ignore[override] # typeshed's form is that of the loop's own implementation
        self, executor: Any, work: Callable[..., Any], *arguments: Any
    ) -> asyncio.Future[Any]:
        """Do the work of threads at once, since the clock must not jump ahead of them."""
        done = self.create_future()
        try:
            done.set_result(work(*arguments))
        except Exception as error:  # noqa: BLE001 - the awaiting task handles it
            done.set_exception(error)
        return done


def run_virtually(main: Callable[[], Coroutine[Any, Any, Value]]) -> Value:
    """Run to the end, and check that no task remains."""
    loop = VirtualTimeLoop()
    try:
        value = loop.run_until_complete(main())
        left = [task.get_name() for task in asyncio.all_tasks(loop)]
        assert not left, f"tasks left behind: {left}"
        return value
    finally:
        loop.close()


def in_virtual_time(test: Callable[Arguments, Coroutine[Any, Any, None]]) -> Callable[Arguments, None]:
    """Decorate a test so that `run_virtually` executes it."""

    @functools.wraps(test)
    def run(*arguments: Arguments.args, **named: Arguments.kwargs) -> None:
        run_virtually(lambda: test(*arguments, **named))

    return run
