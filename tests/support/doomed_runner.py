"""`fsm-runner` that kills itself at a point of its work: `python -m tests.support.doomed_runner POINT -- ARGUMENTS`.

A POINT is `MACHINE/SOURCE/EVENT/TARGET/WHEN`, a step of an actor (`*` is any; SOURCE is empty where a life begins), or
`write/NUMBER/WHEN`, a write of the journal, counted from 1, or `never`. Nothing of `fsm_runner` is imported before it
is needed, so that a process which has the libraries loaded can be forked for it.
"""

import os
import signal
import sys
from typing import TYPE_CHECKING, NamedTuple, NoReturn
from unittest.mock import patch

if TYPE_CHECKING:
    from fsm_runner.journal.batch import Batch
    from fsm_runner.journal.journal import Journal
    from fsm_runner.journal.writer import Writer
    from fsm_runner.runtime.actors.actor import Actor

NEVER = "never"
ANY = "*"
BEFORE, NOTED, WRITTEN = "before", "noted", "written"
STEP_MOMENTS = (BEFORE, NOTED, WRITTEN)
"""Of a step: before it is recorded; when it is noted; when it is on disk, and nothing has followed from it."""
WRITE_MOMENTS = (BEFORE, WRITTEN)
"""Of a write: before its transaction, and after it, before anybody is told."""
WRITES_SAID = "journal writes:"
"""Said on stderr at the end of one that has not killed itself, with their number."""

NEVER_S = 3600.0

HOLD_ACCEPT = "--hold-accept"
HOLD_START = "--hold-start"
BREAK_STOP = "--break-stop"
SHORT_OF_DESCRIPTORS = "--short-of-descriptors"
"""What makes a run stay in `claimed`, a session in `starting`, and a stop of either fail, and what leaves descriptors
for one run alone: nothing from outside can."""


class StepPoint(NamedTuple):
    machine: str
    source: str
    event: str
    target: str
    when: str

    def __str__(self) -> str:
        return "/".join(self)

    def is_at(self, machine: str, source: str, event: str, target: str) -> bool:
        wanted = (self.machine, self.source, self.event, self.target)
        return all(mine in (ANY, its) for mine, its in zip(wanted, (machine, source, event, target), strict=True))


class WritePoint(NamedTuple):
    number: int
    when: str

    def __str__(self) -> str:
        return f"write/{self.number}/{self.when}"


Point = StepPoint | WritePoint | None


def point_of(text: str) -> Point:
    if text == NEVER:
        return None
    kind, *rest = text.split("/")
    return WritePoint(int(rest[0]), rest[1]) if kind == "write" else StepPoint(kind, *rest)


def die() -> NoReturn:
    """No thread, no buffer and no `finally` gets another chance."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemError("survived SIGKILL")


def main(arguments: list[str]) -> None:
    """Ends as `fsm-runner` does. `arguments`: POINT, what is broken, `--`, those of `fsm-runner`."""
    at = arguments.index("--")
    point, broken = point_of(arguments[0]), arguments[1:at]
    _be_quick()
    writes = _count_writes(point if isinstance(point, WritePoint) else None)
    if isinstance(point, StepPoint):
        _write_only_when_asked()
        _die_at_step(point)
    for wanted, install in (
        (HOLD_ACCEPT, _hold_accept),
        (HOLD_START, _hold_start),
        (BREAK_STOP, _break_stop),
        (SHORT_OF_DESCRIPTORS, _have_few_descriptors),
    ):
        if wanted in broken:
            install()
    from fsm_runner.cli import main as fsm_runner

    sys.argv = ["fsm-runner", *arguments[at + 1 :]]
    try:
        fsm_runner()
    finally:
        print(WRITES_SAID, writes[0], file=sys.stderr, flush=True)  # noqa: T201


def _be_quick() -> None:
    from functools import partial

    from fsm_runner.app.build import assembled_runner
    from fsm_runner.cli import runner
    from fsm_runner.coordinator_client.policy import Policies
    from fsm_runner.util.retry import RetryPolicy

    quick = RetryPolicy(base_s=0.01, cap_s=0.05)
    in_time = RetryPolicy(base_s=0.01, cap_s=0.05, limit_s=10)
    policies = Policies(
        register=quick,
        registration_conflict=in_time,
        poll=quick,
        short_poll=quick,
        heartbeat=quick,
        delivery=quick,
        script=in_time,
        deregister=in_time,
    )
    _replace(runner, "assembled_runner", partial(assembled_runner, policies=policies))


def _replace(place: object, name: str, value: object) -> None:
    """For as long as the process lives."""
    patch.object(place, name, value).start()


def _write_only_when_asked() -> None:
    """What nobody waits for is not on disk then, however long the machine has taken."""
    from functools import partial

    from fsm_runner.journal.journal import Journal

    _replace(Journal, "open", partial(Journal.open, flush_within_s=NEVER_S))


def _die_at_step(point: StepPoint) -> None:
    from fsm_runner.runtime.actors.actor import Actor

    record = Actor._record

    def record_or_die(actor: "Actor", event: str, source: str | None, reason: str) -> None:
        is_it = point.is_at(actor._machine.spec.name, source or "", event, actor.model.state)
        if is_it and point.when == BEFORE:
            die()
        record(actor, event, source, reason)
        if is_it:
            if point.when == WRITTEN:
                _write_now(actor._recorder)  # type: ignore[arg-type]  # the one that the program has
            die()

    _replace(Actor, "_record", record_or_die)


def _write_now(journal: "Journal") -> None:
    """All that is noted, in the journal's own thread; the loop stands still meanwhile."""
    flusher = journal._flusher
    flusher._thread.submit(flusher._writer.write, flusher.pending).result()


def _count_writes(point: WritePoint | None) -> list[int]:
    """One number, which grows."""
    from fsm_runner.journal.writer import Writer

    write, count = Writer.write, [0]

    def write_or_die(writer: "Writer", batch: "Batch") -> None:
        count[0] += 1
        is_it = point is not None and count[0] == point.number
        if is_it and point is not None and point.when == BEFORE:
            die()
        write(writer, batch)
        if is_it:
            die()

    _replace(Writer, "write", write_or_die)
    return count


def _hold_accept() -> None:
    import asyncio

    from fsm_runner.runtime.actors.run import RunActor

    async def accept(actor: RunActor) -> None:
        await actor._context.record.flush()
        await asyncio.Event().wait()

    _replace(RunActor, "_accept", accept)


def _hold_start() -> None:
    import asyncio

    from fsm_runner.runtime.actors.session import SessionActor

    async def start(_: SessionActor) -> None:
        await asyncio.Event().wait()

    _replace(SessionActor, "_start_process", start)


def _have_few_descriptors() -> None:
    from fsm_runner.runtime.control import descriptors
    from fsm_runner.runtime.control.descriptors import DescriptorWatch

    _replace(descriptors, "FREED_AFTER_S", 0.0)
    _replace(DescriptorWatch, "has_room", property(lambda watch: len(watch._load) == 0))


def _break_stop() -> None:
    from fsm_runner.executors.persistent import PersistentProcess
    from fsm_runner.executors.procedural import ProceduralExecution
    from fsm_runner.process.errors import ProcessStuck

    async def stop(_: object) -> NoReturn:
        raise ProcessStuck("it does not end")

    _replace(ProceduralExecution, "stop", stop)
    _replace(PersistentProcess, "stop", stop)


if __name__ == "__main__":
    main(sys.argv[1:])
