"""SIGTERM, SIGINT and SIGHUP as events of the runner: each further signal asks for more haste."""

import asyncio
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fsm_runner.lifecycle.actor import Actor

GRACEFUL = ("drain_requested", "hurry_requested", "exit_requested")
PROMPT = ("hurry_requested", "exit_requested")

_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""SIGHUP too: a terminal that is closed must not leave commands behind."""


@contextmanager
def ending_signals(actor: Actor, events: Sequence[str] = GRACEFUL) -> Iterator[None]:
    """While this lasts, the first signal posts the first event, and so on; the last one repeats."""
    loop = asyncio.get_running_loop()
    left = list(events)

    def post_next(name: str) -> None:
        actor.post(left.pop(0) if len(left) > 1 else left[0], name)

    for number in _ENDING_SIGNALS:
        loop.add_signal_handler(number, post_next, number.name)
    try:
        yield
    finally:
        for number in _ENDING_SIGNALS:
            loop.remove_signal_handler(number)
