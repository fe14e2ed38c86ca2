"""Executors that are broken in one way each: the good one in Python, with a few words of it replaced."""

import sys
from pathlib import Path

import msgspec

from fsm_runner.protocol.statuses import Lifecycle
from tests.support.conformance import AMPLE_S, PLAIN_PYTHON

HANGS_S = 5.0
"""The time limit of a case for executors whose fault is that they hang."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    replace: tuple[str, str]
    """What stands in the good executor, and what stands there instead."""
    caught_by: frozenset[str]
    """The cases that fail, all others hold or are not tried."""
    lifecycle: Lifecycle = "one_shot"
    timeout_s: float = AMPLE_S


def fault(name: str, old: str, new: str, *caught_by: str, hangs: bool = False, persistent: bool = False) -> Fault:
    return Fault(
        name=name,
        replace=(old, new),
        caught_by=frozenset(caught_by),
        lifecycle="persistent" if persistent else "one_shot",
        timeout_s=HANGS_S if hangs else AMPLE_S,
    )


def write_executor(folder: Path, name: str, *replace: tuple[str, str]) -> Path:
    """The good executor with some of its words replaced. Raises ValueError where one does not stand there once."""
    source = PLAIN_PYTHON.read_text()
    for old, new in replace:
        if source.count(old) != 1:
            raise ValueError(f"{name}: {old!r} stands {source.count(old)} times in {PLAIN_PYTHON}")
        source = source.replace(old, new)
    _, body = source.split("\n", 1)
    path = folder / name
    # Straight to an interpreter that starts quickly: so many processes are started.
    path.write_text(f"#!{sys.executable} -IS\n{body}")
    path.chmod(0o755)
    return path
