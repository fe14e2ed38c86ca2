"""SIGTERM, SIGINT and SIGHUP while a command is at work."""

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from fsm_runner.process.inherited import is_ignored
from fsm_runner.runtime.actors.actor import Actor

GRACEFUL = ("drain_requested", "hurry_requested", "exit_requested")
PROMPT = ("hurry_requested", "exit_requested")

_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""SIGHUP too: a terminal that is closed must not leave commands behind."""


@contextmanager
def on_ending_signals(react: Callable[[str], None]) -> Iterator[None]:
    """While this lasts, call `react` on the loop with the name of each signal that asks the program to end.

    A signal that the parent ignored (`nohup`, a shell's background job) stays ignored.
    """
    loop = asyncio.get_running_loop()
    heeded = [number for number in _ENDING_SIGNALS if not is_ignored(number)]
    for number in heeded:
        loop.add_signal_handler(number, react, number.name)
    try:
        yield
    finally:
        for number in heeded:
            loop.remove_signal_handler(number)


@contextmanager
def ending_signals(actor: Actor, events: Sequence[str] = GRACEFUL) -> Iterator[None]:
    """While this lasts, the first signal posts the first event, the second the next: each asks for more haste. The last
    event repeats."""
    left = list(events)

    def post_next(name: str) -> None:
        actor.post(left.pop(0) if len(left) > 1 else left[0], name)

    with on_ending_signals(post_next):
        yield
