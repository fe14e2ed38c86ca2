"""Random schedules of faults between a runner and its coordinator, each determined by its seed."""

import asyncio
from random import Random
from typing import Literal

import msgspec

from tests.support import faults
from tests.support.faults import Kind
from tests.support.proxy import POLL, REPORT, FaultProxy

RUNS = 50
LENGTH_S = 1.5
"""All runs are submitted, and all faults begin, within this time."""
LONGEST_COMMAND_S = 0.4
LONGEST_OUTAGE_S = 0.4

Ending = Literal["completed", "failed", "stopped"]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One run. Times are relative to the start of the schedule."""

    submit_at_s: float
    ending: Ending
    lasts_s: float
    """Duration of its command. A run that is stopped lasts for ever."""
    stop_after_s: float
    """Time between submission and stop, if it is stopped."""


class Disturbance(msgspec.Struct, frozen=True, kw_only=True):
    at_s: float

    def __str__(self) -> str:
        return f"{self.at_s:.3f} s: {self.said}"

    @property
    def said(self) -> str:
        raise NotImplementedError


class Spoiled(Disturbance, frozen=True, kw_only=True):
    """A fault of the next calls of a kind."""

    method: str
    path: str
    kind: str
    seconds: float
    times: int

    @property
    def said(self) -> str:
        return f"{self.fault().name} for the next {self.times} of {self.method} {self.path}"

    def fault(self) -> Kind:
        match self.kind:
            case "lost answer":
                return faults.lost_answer()
            case "delay":
                return faults.delay(self.seconds)
            case "duplicated":
                return faults.duplicated()
            case "503":
                return faults.status(503)
            case "html":
                return faults.html()
            case _:
                return faults.reset()


class Cut(Disturbance, frozen=True, kw_only=True):
    """All connections break; the coordinator stays."""

    @property
    def said(self) -> str:
        return "all connections break"


class Killed(Disturbance, frozen=True, kw_only=True):
    """The coordinator ends and restarts with its database, but without its registry of runners."""

    for_s: float

    @property
    def said(self) -> str:
        return f"the coordinator is killed, and back {self.for_s:.3f} s later"


CALLS = (
    ("GET", POLL),
    ("GET", POLL),
    ("GET", "/runs"),
    ("GET", "/runs/[^/]+"),
    ("POST", REPORT + "started"),
    ("POST", REPORT + "(completed|failed|stopped)"),
    ("POST", REPORT + "(completed|failed|stopped)"),
    ("POST", "/sessions/[^/]+/(bind|events)"),
    ("POST", "/runner/register"),
    ("POST", "/runner/heartbeat"),
)
"""Repeated in proportion to the damage that a fault does."""
KINDS = ("lost answer", "lost answer", "reset", "delay", "duplicated", "503", "html")


class Schedule:
    def __init__(self, seed: int) -> None:
        random = Random(seed)
        self.seed = seed
        self.plans = sorted((_plan(random) for _ in range(RUNS)), key=lambda plan: plan.submit_at_s)
        disturbances = [_disturbance(random) for _ in range(random.randint(4, 16))]
        self.disturbances = sorted(disturbances, key=lambda each: each.at_s)

    def __str__(self) -> str:
        return "\n  ".join([f"FAULT_SEED={self.seed}", *map(str, self.disturbances)])


def _plan(random: Random) -> Plan:
    return Plan(
        submit_at_s=random.uniform(0, LENGTH_S / 2),
        ending=random.choice(("completed", "completed", "completed", "failed", "stopped")),
        lasts_s=random.uniform(0, LONGEST_COMMAND_S),
        stop_after_s=random.uniform(0, LENGTH_S / 2),
    )


def _disturbance(random: Random) -> Disturbance:
    at_s = random.uniform(0, LENGTH_S)
    choice = random.random()
    if choice < 0.15:
        return Killed(at_s=at_s, for_s=random.uniform(0, LONGEST_OUTAGE_S))
    if choice < 0.3:
        return Cut(at_s=at_s)
    method, path = random.choice(CALLS)
    # A duplicated poll claims a run for no runner, and no call shows it.
    kinds = [kind for kind in KINDS if kind != "duplicated" or method == "POST"]
    return Spoiled(
        at_s=at_s,
        method=method,
        path=path,
        kind=random.choice(kinds),
        seconds=random.uniform(0, LONGEST_OUTAGE_S),
        times=random.randint(1, 6),
    )


async def until(began_s: float, at_s: float) -> None:
    """Return at this time of the schedule."""
    await asyncio.sleep(began_s + at_s - asyncio.get_running_loop().time())


def spoil(proxy: FaultProxy, spoiled: Spoiled) -> None:
    proxy.fault(spoiled.method, spoiled.path, spoiled.fault(), spoiled.times)
