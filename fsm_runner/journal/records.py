"""What a journal hands back when it is opened."""

import msgspec


class Report(msgspec.Struct, frozen=True):
    """How a run ended, as the coordinator is told: the path of the call and its JSON body."""

    path: str
    body: bytes
    authoritative: bool = True
    """Whether it is told although the coordinator holds another end."""


class OpenRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run that was claimed and has not ended."""

    run: bytes
    """JSON, as it was claimed."""
    run_id: str
    session_id: str
    runner_id: str
    state: str
    """Where its last transition led; empty where none was noted."""
    outcome: str | None
    """What its last transition said; None where none was settled."""
    failure: str
    """The reason of its first transition with the outcome `failed`; empty where there is none."""
    report: Report | None
    interruptions: int
    """How many of its transitions have the event `interrupted`."""


class OpenSession(msgspec.Struct, frozen=True, kw_only=True):
    """A persistent executor that began and has not ended. State and outcome are of its present life."""

    session_id: str
    run: bytes
    """JSON of the run that began it."""
    runner_id: str
    state: str
    outcome: str | None


class StoredMessage(msgspec.Struct, frozen=True):
    """A message that was put and is not gone. Its content means nothing to the journal."""

    id: int
    session_id: str
    content: bytes | None
    """None where it is long: `Journal.message` reads it when it is needed."""
    size_bytes: int = 0
    """Of the content, where that is None."""


class EndedRun(msgspec.Struct, frozen=True):
    run_id: str
    report: Report


class Recovered(msgspec.Struct, frozen=True, kw_only=True):
    """What an earlier process left."""

    runs: tuple[OpenRun, ...]
    """In the order of their claims."""
    sessions: tuple[OpenSession, ...]
    """In the order in which they began."""
    messages: tuple[StoredMessage, ...]
    """In the order of their ids."""
    ended: tuple[EndedRun, ...]
    """The latest that have a report, oldest first."""
