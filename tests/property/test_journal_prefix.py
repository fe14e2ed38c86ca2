"""What is on disk is always what was noted up to some moment, and no earlier one than was last waited for.

The notes are carried out here, by a journal that cannot write for a while, and by a process that is killed.
"""

import asyncio
import json
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from hypothesis import event, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from fsm_runner.journal.journal import Journal, JournalUnwritable
from fsm_runner.journal.records import (
    EndedRun,
    OpenRun,
    OpenSession,
    Recovered,
    Report,
    StoredMessage,
    Transition,
    TreeSession,
    UsageSums,
)
from fsm_runner.journal.recovery import recover

REPOSITORY = Path(__file__).parents[2]

Note = tuple[str, int]
"""What is noted, and of which run, session or message."""

OF_OPEN_RUNS = ("use", "wait", "continue", "look", "settle", "end")
KINDS = ("claim", "step", "fail", "interrupt", *OF_OPEN_RUNS, "begin", "finish", "busy", "put", "drop", "write")


def notes(*further: str, min_size: int, max_size: int) -> st.SearchStrategy[list[Note]]:
    note = st.tuples(st.sampled_from((*KINDS, *further)), st.integers(0, 2))
    return st.lists(note, min_size=min_size, max_size=max_size).map(sensible)


def sensible(wanted: Sequence[Note]) -> list[Note]:
    """Without those that the journal's users never make: of a run nothing before its claim, nothing after its end.

    A run that has ended without a report may be claimed again, once its end is on disk.
    """
    claimed: set[int] = set()
    ended: set[int] = set()
    reported: set[int] = set()
    on_disk: set[int] = set()
    is_jammed = False
    done: list[Note] = []
    for kind, number in wanted:
        if kind == "claim" and number in ended:
            if number in reported or number not in on_disk:
                continue
            ended.discard(number)
            on_disk.discard(number)
            done.append(("reclaim", number))
            continue
        if kind == "claim":
            claimed.add(number)
        elif kind in OF_OPEN_RUNS and (number not in claimed or number in ended):
            continue
        elif kind == "settle":
            reported.add(number)
        elif kind == "end":
            ended.add(number)
        elif kind in ("jam", "free"):
            is_jammed = kind == "jam"
        elif kind == "write" and not is_jammed:
            on_disk |= ended
        done.append((kind, number))
    return done


class Step(NamedTuple):
    event: str
    target: str
    outcome: str | None
    reason: str


def step_of(kind: str, at: int) -> Step:
    return Step(
        event="interrupted" if kind == "interrupt" else "event",
        target=f"state_{at}",
        outcome="failed" if kind == "fail" else None,
        reason=f"reason {at}",
    )


def report_of(at: int) -> Report:
    return Report("/path", b"%d" % at)


def wait_of(kind: str, at: int) -> bytes | None:
    return b"%d" % at if kind == "wait" else None


class Model:
    """What should be recovered, computed one note after another, without a database."""

    def __init__(self) -> None:
        self.runs: dict[int, OpenRun] = {}
        self.claimed: list[int] = []
        """The runs in the order of their first claims."""
        self.steps: dict[int, list[Step]] = {}
        self.sessions: dict[int, OpenSession] = {}
        self.messages: dict[int, StoredMessage] = {}
        self.ended: dict[int, Report | None] = {}
        self.puts = 0

    def take(self, note: Note, at: int) -> None:
        kind, number = note
        match kind:
            case "claim" | "reclaim" if number not in self.runs:
                if kind == "reclaim":
                    del self.ended[number]
                    self.steps[number] = [step_of(kind, at)]
                else:
                    self.claimed.append(number)
                self.runs[number] = OpenRun(
                    run=b"%d" % at,
                    run_id=f"run_{number}",
                    session_id="ses",
                    runner_id="lnch",
                    state="",
                    outcome=None,
                    failure="",
                    report=None,
                    interruptions=0,
                )
            case "step" | "fail" | "interrupt":
                self.steps.setdefault(number, []).append(step_of(kind, at))
            case "use":
                self.runs[number] = replace(self.runs[number], usage=b"%d" % at)
            case "wait" | "continue":
                self.runs[number] = replace(self.runs[number], wait=wait_of(kind, at))
            case "look":
                self.runs[number] = replace(self.runs[number], workspace=b"%d" % at)
            case "settle":
                self.runs[number] = replace(self.runs[number], report=report_of(at))
            case "end":
                self.ended[number] = self.runs.pop(number).report
            case "begin":
                self.sessions.pop(number, None)
                self.sessions[number] = OpenSession(
                    session_id=f"ses_{number}", run=b"%d" % at, runner_id="lnch", state="", outcome=None
                )
            case "busy" if number in self.sessions:
                self.sessions[number] = replace(self.sessions[number], state=f"state_{at}", outcome=None)
            case "finish":
                self.sessions.pop(number, None)
            case "put":
                self.puts += 1
                self.messages[self.puts] = StoredMessage(self.puts, f"ses_{number}", b"%d" % at)
            case "drop":
                self.messages.pop(self.puts - number, None)

    def recovered(self) -> Recovered:
        return Recovered(
            runs=tuple(self._with_steps(number, self.runs[number]) for number in self.claimed if number in self.runs),
            sessions=tuple(self.sessions.values()),
            messages=tuple(self.messages.values()),
            ended=tuple(
                EndedRun(f"run_{number}", report) for number, report in self.ended.items() if report is not None
            ),
        )

    def _with_steps(self, number: int, run: OpenRun) -> OpenRun:
        steps = self.steps.get(number)
        if not steps:
            return run
        return replace(
            run,
            state=steps[-1].target,
            outcome=steps[-1].outcome,
            failure=next((step.reason for step in steps if step.outcome == "failed"), ""),
            interruptions=sum(step.event == "interrupted" for step in steps),
        )


def record_step(journal: Journal, number: int, step: Step, source: str | None) -> None:
    """Record a step of a run; the first one of a life has no source."""
    transition = Transition("run", f"run_{number}", step.event, source, step.target, step.outcome, step.reason)
    journal.record_transition(transition)


def carry_out(journal: Journal, note: Note, at: int, puts: list[int]) -> None:
    kind, number = note
    match kind:
        case "claim" | "reclaim":
            journal.record_claim(f"run_{number}", "ses", "agent", "lnch", b"%d" % at)
            if kind == "reclaim":
                record_step(journal, number, step_of(kind, at), source=None)
        case "step" | "fail" | "interrupt":
            record_step(journal, number, step_of(kind, at), source="another")
        case "use":
            journal.record_usage(f"run_{number}", b"%d" % at)
            used = UsageSums(turns=at)
            session_id = f"ses_{number}"
            journal.record_tree_session(
                TreeSession(session_id=session_id, root_session_id=session_id, depth=0, used=used)
            )
        case "wait" | "continue":
            journal.record_wait(f"run_{number}", wait_of(kind, at))
        case "look":
            journal.record_workspace(f"run_{number}", b"%d" % at)
        case "settle":
            journal.record_report(f"run_{number}", report_of(at))
        case "end":
            journal.record_run_end(f"run_{number}")
        case "begin":
            journal.record_session_start(f"ses_{number}", "lnch", b"%d" % at)
        case "busy":
            journal.record_transition(Transition("session", f"ses_{number}", "event", None, f"state_{at}", None, ""))
        case "finish":
            journal.record_session_end(f"ses_{number}")
        case "put":
            puts.append(journal.store_message(f"ses_{number}", b"%d" % at))
        case "drop" if number < len(puts):
            journal.delete_message(puts[-1 - number])


def prefixes(done: Sequence[Note]) -> list[Recovered]:
    """What should be recovered after none of the notes, after the first, and so on."""
    model = Model()
    states = [model.recovered()]
    for at, note in enumerate(done):
        model.take(note, at)
        states.append(model.recovered())
    return states


def on_disk(folder: Path) -> Recovered:
    """Return what is on disk. Assert that the usage of runs and the sums of their sessions are of one moment."""
    with closing(sqlite3.connect(f"file:{folder}/journal.sqlite?mode=ro", uri=True)) as connection:
        recovered = recover(connection)
        sums = dict(connection.execute("SELECT session_id, turns FROM tree_sessions"))
    for run in recovered.runs:
        # A run that begins anew has used nothing yet, but its session has.
        assert run.usage is None or int(run.usage) == sums[run.run_id.replace("run", "ses")]
    return recovered


def may_write(journal: Journal, *, allowed: bool) -> None:
    connection = journal._flusher._writer._connection
    journal._flusher._thread.submit(connection.execute, f"PRAGMA query_only={not allowed}").result()


async def note_all(folder: Path, done: Sequence[Note], flush_within_s: float) -> None:
    states = prefixes(done)
    journal = Journal(folder, flush_within_s=flush_within_s)
    puts: list[int] = []
    written = 0
    for at, note in enumerate(done):
        match note[0]:
            case "jam" | "free":
                may_write(journal, allowed=note[0] == "free")
            case "write":
                try:
                    await journal.flush()
                except JournalUnwritable:
                    event("stuck")
                else:
                    written = at
                assert on_disk(folder) in states[written : at + 1]
            case _:
                carry_out(journal, note, at, puts)
        await asyncio.sleep(0)
    may_write(journal, allowed=True)
    await journal.aclose()
    assert on_disk(folder) == states[-1]
    event(f"left open: {len(states[-1].runs)} runs")


@given(notes("jam", "free", "write", min_size=0, max_size=60), st.sampled_from([0.0, 3600.0]))
@settings(max_examples=60)
def test_after_any_notes_all_are_there_in_the_end(done: list[Note], flush_within_s: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(note_all(Path(folder), done, flush_within_s))


NOTE_UNTIL_KILLED = """
import asyncio, json, sys
from pathlib import Path
from fsm_runner.journal.journal import Journal
from tests.property.test_journal_prefix import carry_out

async def main():
    journal = Journal(Path(sys.argv[1]), flush_within_s=0.0)
    puts = []
    for at, note in enumerate(json.load(sys.stdin)):
        if note[0] == "write":
            await journal.flush()
            print(at, flush=True)
        else:
            carry_out(journal, note, at, puts)
            await asyncio.sleep(0)
    print("end", flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


@contextmanager
def noting(folder: str, done: Sequence[Note]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", NOTE_UNTIL_KILLED, folder],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin is not None
        json.dump(done, process.stdin)
        process.stdin.close()
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def killed_after(folder: str, done: Sequence[Note], writes: int) -> int:
    """Let a process record until it has flushed `writes` times, then kill it; return its last flush."""
    written = 0
    with noting(folder, done) as process:
        assert process.stdout is not None
        for _ in range(writes + 1):
            line = process.stdout.readline()
            if line == "end\n":
                break
            written = int(line)
        process.kill()
        # It may have got further before it was gone.
        return max([written, *(int(line) for line in process.stdout if line != "end\n")])


@given(notes("write", "write", min_size=200, max_size=400), st.integers(0, 40))
@settings(max_examples=10)
def test_wherever_it_is_killed_there_is_what_was_noted_up_to_a_moment(done: list[Note], writes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        written = killed_after(folder, done, writes)
        states = prefixes(done)
        journal = Journal(Path(folder))
        asyncio.run(journal.aclose())
        assert journal.recovered == on_disk(Path(folder))
        assert journal.recovered in states[written:]
        event(f"killed before the end: {journal.recovered != states[-1]}")
