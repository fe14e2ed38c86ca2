"""The records of a journal."""

import time
from datetime import UTC, datetime, timedelta

import msgspec

from fsm_runner.util.text import usd_text

RUN, SESSION, RUNNER, WORKFLOW = "run", "session", "runner", "workflow"
"""The machines whose transitions are recorded. The subject of a workflow's transitions is its run."""


class Transition(msgspec.Struct, frozen=True):
    """One step of a subject: a run, its workflow, a session or the runner."""

    machine: str
    subject: str
    event: str
    source: str | None
    """The state before; None for the first step."""
    target: str
    outcome: str | None
    """The outcome that is decided after the step."""
    reason: str
    """Why the event was posted; may be empty."""
    provisional: bool = False
    """Whether the outcome is the runner's assumption: an end that the coordinator holds takes precedence."""


class TransitionRow(Transition, frozen=True, kw_only=True):
    """A row of the table `transitions`; its columns have the names of the fields."""

    seq: int
    at: str
    """Wall clock: ISO 8601, UTC."""
    monotonic_s: float
    process: str
    """The runner process. Monotonic times of different processes cannot be compared."""


class Report(msgspec.Struct, frozen=True):
    """A run's terminal report: the path of the call and its JSON body."""

    path: str
    body: bytes


class WorkflowRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A workflow as a run follows it, whatever happens to its file."""

    name: str
    path: str
    text: str
    """The content of the file."""
    sha256: str
    """SHA-256 of the text, in hex digits."""
    schemas: bytes
    """JSON: the schemas by state."""
    parameters: bytes
    """JSON: the run's parameters."""
    project_dir: str | None = None
    """The working directory that the run names; None: that of the runner."""
    scope: bytes | None = None
    """JSON: the values for the placeholders of the run's agent; None: there are none."""
    rerun_of: str | None = None
    """The run that this one repeats from a state on; None if the workflow begins at its initial state."""
    rerun_from: str | None = None
    """The state in which it begins; None: the initial one."""
    initial_values: bytes | None = None
    """JSON: the values with which it begins, by name, the latest last; None: without any."""


class VisitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One visit of a state that has an activity."""

    number: int
    """In the workflow; the first one is 1."""
    state: str
    began_at: str
    due_s: float | None
    """The deadline as Unix time, in seconds; None: without a limit."""
    interruptions: int = 0
    progress: bytes | None = None
    """What its step has saved; None after its end."""
    ended_at: str | None = None
    ending: str | None = None
    """That of its activity, or the outcome of the run that ended during the visit."""
    target: str | None = None
    """The state after it and all choices that followed; None if the run ended during the visit."""
    value_name: str | None = None
    value: bytes | None = None
    """JSON: the fields that it has assigned to that name."""
    usage: bytes | None = None
    """JSON: what its activity has used; None if that is not known."""


class WorkflowPosition(msgspec.Struct, frozen=True, kw_only=True):
    """Where the workflow of a run was when the process ended, or where it is to begin."""

    record: WorkflowRecord
    began_at: str
    state: str
    """That of the open visit, else the target of the last ended one; without a visit `rerun_from`, else empty."""
    counts: dict[str, int] = {}
    """The visits by state, with the open one."""
    values: dict[str, bytes] = {}
    """JSON: the latest values by name, in the order of their visits."""
    usages: tuple[bytes, ...] = ()
    """JSON: the usages of the ended visits that have one, in their order."""
    last_number: int = 0
    """The number of the last visit; 0: none."""
    open: VisitRecord | None = None
    """The visit that has not ended."""
    last_ended: VisitRecord | None = None
    """The last visit, if it has ended and a state follows it."""


class OpenRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that was claimed and has not ended."""

    run: bytes
    """JSON, as it was claimed."""
    run_id: str
    session_id: str
    runner_id: str
    state: str
    """The target of its last transition; empty if it has none."""
    outcome: str | None
    """The outcome of its last transition; None if none was decided."""
    provisional: bool = False
    failure: str
    """The reason of its first transition with the outcome `failed`; empty if there is none."""
    report: Report | None
    interruptions: int
    """The number of its transitions with the event `interrupted`."""
    usage: bytes | None = None
    """Its cost as JSON; None if its executor reported none."""
    wait: bytes | None = None
    """What it waits for, as JSON; None if it does not wait."""
    workspace: bytes | None = None
    """The state of its workspace before its execution, as JSON; None if nothing depends on it."""
    workflow: WorkflowPosition | None = None
    """None if it follows no workflow, or has not begun it."""


class OpenSession(msgspec.Struct, frozen=True, kw_only=True):
    """A persistent executor that started and has not ended. State and outcome are those of its current life."""

    session_id: str
    run: bytes
    """JSON of the run that started it."""
    runner_id: str
    state: str
    outcome: str | None


class StoredMessage(msgspec.Struct, frozen=True):
    """A queued message. The journal does not read its content."""

    id: int
    session_id: str
    content: bytes | None
    """None if it is long: `Journal.message` reads it on demand."""
    size_bytes: int = 0
    """The size of the content, if `content` is None."""


MOST_USED = 10**12
"""Sums end here. So the sum of millions of sessions still fits into an integer of SQLite."""


class UsageSums(msgspec.Struct, frozen=True):
    """What several runs have used together. No sum is negative or above `MOST_USED`."""

    cost_usd: float = 0.0
    tokens: int = 0
    """Input, output and cache tokens."""
    turns: int = 0

    def __str__(self) -> str:
        turns = "1 turn" if self.turns == 1 else f"{self.turns:,} turns"
        return f"{self.tokens:,} tokens, {usd_text(self.cost_usd)} USD, {turns}"

    def __add__(self, other: "UsageSums") -> "UsageSums":
        return UsageSums(
            min(self.cost_usd + other.cost_usd, float(MOST_USED)),
            min(self.tokens + other.tokens, MOST_USED),
            min(self.turns + other.turns, MOST_USED),
        )


NOTHING_USED = UsageSums()


class TreeSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session, its place in its tree, and what its own runs have used."""

    session_id: str
    root_session_id: str
    """The session at the top of the tree; itself if it has no known parent."""
    depth: int
    """The number of sessions above it."""
    used: UsageSums = NOTHING_USED


class TreeTotals(msgspec.Struct, frozen=True):
    """All known sessions of a tree together."""

    below_root: int
    """The number of sessions except the root."""
    used: UsageSums


class EndedRun(msgspec.Struct, frozen=True):
    run_id: str
    report: Report


class Recovered(msgspec.Struct, frozen=True, kw_only=True):
    """What an earlier process left."""

    runs: tuple[OpenRun, ...]
    """In the order of their claims."""
    sessions: tuple[OpenSession, ...]
    """In the order of their starts."""
    messages: tuple[StoredMessage, ...]
    """In the order of their ids."""
    ended: tuple[EndedRun, ...]
    """The latest ended runs that have a report, oldest first."""


def utc_text(ago_s: float = 0.0) -> str:
    """Return the wall clock, or a time before it: ISO 8601 to the microsecond, in one width, so that texts compare.

    A time before the calendar begins becomes the begin of the calendar.
    """
    now = datetime.fromtimestamp(time.time(), UTC)
    try:
        then = now - timedelta(seconds=ago_s)
    except OverflowError:
        then = datetime.min.replace(tzinfo=UTC)
    return then.isoformat(timespec="microseconds").replace("+00:00", "Z")
