"""SIGTERM, SIGINT and SIGHUP while a command works.

| command | 1st signal | 2nd signal | 3rd signal |
| --- | --- | --- | --- |
| `fsm-runner` | drain: runs may end within the grace period | stop the runs now | kill the runs, exit with 130 |
| `fsm-runner run` | stop the run now | kill the run, exit with 130 | as the second |
| `fsm-runner coordinator` | end | no effect | no effect |
| `fsm-runner executor check` | end the executors, exit with 130 | no effect | no effect |

The first two commands post events to the runner's machine, `specs/runner.toml`; the others use `on_ending_signals`.
"""

import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, repeat

from fsm_runner.process.inherited import is_ignored
from fsm_runner.runtime.actors.actor import Actor

DRAIN_FIRST = ("drain_requested", "stop_now_requested", "exit_requested")
"""The events of `fsm-runner`, one for each signal."""
STOP_AT_ONCE = ("stop_now_requested", "exit_requested")
"""The events of `fsm-runner run`, one for each signal: it has no grace period."""

_ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""SIGHUP too: closing a terminal must end its commands."""


@contextmanager
def on_ending_signals(react: Callable[[str], None]) -> Iterator[None]:
    """Call `react` on the loop with the name of each signal that asks the program to end.

    A signal that the parent ignored (`nohup`, a shell's background job) stays ignored.
    """
    loop = asyncio.get_running_loop()
    handled = [number for number in _ENDING_SIGNALS if not is_ignored(number)]
    for number in handled:
        loop.add_signal_handler(number, react, number.name)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


@contextmanager
def post_on_signals(actor: Actor, events: Sequence[str]) -> Iterator[None]:
    """Post one of the events for each signal, in order. Further signals repeat the last event."""
    remaining = chain(events, repeat(events[-1]))
    with on_ending_signals(lambda name: actor.post(next(remaining), name)):
        yield
