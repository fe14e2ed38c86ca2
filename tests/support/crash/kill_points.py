"""Points at which a runner kills itself, and their text form on the command line.

The text is `MACHINE/SOURCE/EVENT/TARGET/PHASE` for a step of an actor (`*` matches anything; SOURCE is empty for the
first step of a life), `write/NUMBER/PHASE` for a write of the journal, `record/METHOD/NUMBER/PHASE` for a call of one
of its methods, both counted from 1, or `never`.
"""

from typing import NamedTuple

NEVER = "never"
ANY = "*"
BEFORE, BUFFERED, WRITTEN = "before", "buffered", "written"
STEP_PHASES = (BEFORE, BUFFERED, WRITTEN)
"""Before a step is recorded; when the journal holds it in memory; when it is on disk but has had no effect yet."""
WRITE_PHASES = (BEFORE, WRITTEN)
"""Before the transaction of a write, or before a record; after it is on disk, before anyone learns of it."""


class StepKillPoint(NamedTuple):
    machine: str
    source: str
    event: str
    target: str
    phase: str

    def __str__(self) -> str:
        return "/".join(self)

    def matches(self, machine: str, source: str, event: str, target: str) -> bool:
        wanted = (self.machine, self.source, self.event, self.target)
        actual = (machine, source, event, target)
        return all(one in (ANY, other) for one, other in zip(wanted, actual, strict=True))


class WriteKillPoint(NamedTuple):
    number: int
    phase: str

    def __str__(self) -> str:
        return f"write/{self.number}/{self.phase}"


class RecordKillPoint(NamedTuple):
    """A call of a method of the journal, which is written with everything else of its commit."""

    method: str
    number: int
    phase: str

    def __str__(self) -> str:
        return f"record/{self.method}/{self.number}/{self.phase}"


KillPoint = StepKillPoint | WriteKillPoint | RecordKillPoint | None
"""None: the runner does not kill itself."""


def parse_kill_point(text: str) -> KillPoint:
    if text == NEVER:
        return None
    kind, *rest = text.split("/")
    match kind:
        case "write":
            return WriteKillPoint(int(rest[0]), rest[1])
        case "record":
            return RecordKillPoint(rest[0], int(rest[1]), rest[2])
    return StepKillPoint(kind, *rest)


def on_entering(machine: str, state: str) -> StepKillPoint:
    """Return the point at which the step into this state is on disk."""
    return StepKillPoint(machine, ANY, ANY, state, WRITTEN)
