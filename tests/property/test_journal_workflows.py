"""The position of a workflow on disk is always that after some block of calls, and no earlier than the last flush."""

import asyncio
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from hypothesis import event, given, settings
from hypothesis import strategies as st

from fsm_runner.journal.journal import Journal
from fsm_runner.journal.records import Recovered, Transition, WorkflowPosition, WorkflowRecord
from fsm_runner.journal.recovery import recover
from tests.support.crash_model.journal import JournalCall, KillSwitch, ModelJournal, recovered
from tests.support.crash_model.workflow_replay import without_times

STATES = ("write", "verify", "ask")
FINAL = "completed"
RUNS = ("run_1", "run_2")
RECORD = WorkflowRecord(
    name="loop", path="/home/loop.toml", text="initial = 'write'", sha256="0f", schemas=b"{}", parameters=b"{}"
)
CARRIED = b'{"work":{"ok":true,"error":""},"verify":{"ok":false,"error":"no"}}'

Action = tuple[str, str, str, bool]
"""A block of calls: what happens, to which run, the state it is about, and a choice."""
ACTIONS = ("begin", "save", "interrupt", "postpone", "step", "step", "step", "give up", "end", "flush")
actions = st.lists(
    st.tuples(st.sampled_from(ACTIONS), st.sampled_from(RUNS), st.sampled_from((*STATES, FINAL)), st.booleans()),
    max_size=40,
)


class Follower:
    """Makes the calls of a driver that follows a workflow."""

    def __init__(self) -> None:
        self.record: Journal | ModelJournal = ModelJournal([], KillSwitch())
        self._number: dict[str, int] = {}
        """The open visit of each run that is at work."""
        self._ended: set[str] = set()
        self._calls = 0

    def take(self, action: Action) -> None:
        kind, run_id, state, choice = action
        self._calls += 1
        content = b'{"n":%d}' % self._calls
        if kind == "begin" and run_id not in self._number and run_id not in self._ended:
            self._begin(run_id, is_rerun=choice)
        elif kind == "end" and run_id in self._number:
            self.record.record_run_end(run_id)
            self._ended.add(run_id)
            del self._number[run_id]
        elif kind == "give up" and run_id in self._number:
            self.record.record_workflow_end(run_id, "stopped" if choice else "failed")
            self._number[run_id] = 0
        elif (number := self._number.get(run_id, 0)) > 0:
            self._work(kind, run_id, number, state, content, has_usage=choice)

    def _begin(self, run_id: str, *, is_rerun: bool) -> None:
        self.record.record_claim(run_id, "ses_1", None, "me", b"{}")
        record = RECORD
        if is_rerun:
            record = WorkflowRecord(
                **{name: getattr(RECORD, name) for name in ("name", "path", "text", "sha256", "schemas", "parameters")},
                rerun_of="run_0",
                rerun_from="verify",
                initial_values=CARRIED,
            )
        self.record.record_workflow(run_id, record)
        self._enter(run_id, 1, record.rerun_from or "write")

    def _enter(self, run_id: str, number: int, state: str) -> None:
        self._number[run_id] = number
        self.record.record_visit(run_id, number, state, float(self._calls))

    def _work(self, kind: str, run_id: str, number: int, state: str, content: bytes, *, has_usage: bool) -> None:
        match kind:
            case "save":
                self.record.record_visit_progress(run_id, number, content)
            case "interrupt":
                self.record.record_visit_interrupted(run_id, number, self._calls)
            case "postpone":
                self.record.record_visit_due(run_id, number, None if has_usage else float(self._calls))
            case "step":
                name = STATES[self._calls % len(STATES)]
                usage = content if has_usage else None
                self.record.record_visit_end(run_id, number, "done", state, name, content, usage)
                self.record.record_transition(Transition("workflow", run_id, "done", "write", state, None, ""))
                self._number[run_id] = 0
                if state != FINAL:
                    self._enter(run_id, number + 1, state)


def prefixes(done: Sequence[Action]) -> list[Recovered]:
    """Return what should be recovered after none of the actions, after the first, and so on."""
    follower = Follower()
    model = follower.record = ModelJournal([], KillSwitch())
    calls: list[list[JournalCall]] = [[]]
    for action in done:
        follower.take(action)
        calls.append(list(model.calls))
    return [without_times(recovered(each)) for each in calls]


def on_disk(folder: Path) -> Recovered:
    """Return what the next process recovers if this one is killed now."""
    address = f"file:{folder}/journal.sqlite?mode=ro"
    with closing(sqlite3.connect(address, uri=True, isolation_level=None)) as connection:
        connection.execute("BEGIN")  # one snapshot, since the journal writes meanwhile
        return without_times(recover(connection))


async def carry_out(folder: Path, done: Sequence[Action], flush_within_s: float) -> None:
    states = prefixes(done)
    journal = Journal(folder, flush_within_s=flush_within_s)
    follower = Follower()
    follower.record = journal
    flushed = 0
    for at, action in enumerate(done):
        if action[0] == "flush":
            await journal.flush()
            flushed = at
        follower.take(action)
        await asyncio.sleep(0)
        assert on_disk(folder) in states[flushed : at + 2]
    await journal.aclose()
    assert on_disk(folder) == states[-1]
    event(f"open visits: {sum(is_in_visit(run.workflow) for run in states[-1].runs)}")


def is_in_visit(position: WorkflowPosition | None) -> bool:
    return position is not None and position.open is not None


@given(actions, st.sampled_from([0.0, 3600.0]))
@settings(max_examples=25)
def test_a_killed_process_leaves_the_position_after_a_block_of_calls(done: list[Action], flush_within_s: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(carry_out(Path(folder), done, flush_within_s))


@given(st.lists(actions, min_size=1, max_size=4))
@settings(max_examples=8)
def test_a_position_is_the_same_over_any_number_of_processes(processes: list[list[Action]]) -> None:
    done = [action for part in processes for action in part]
    expected = prefixes(done)[-1]

    async def live(folder: Path) -> None:
        follower = Follower()
        for part in processes:
            journal = follower.record = Journal(folder)
            for action in part:
                follower.take(action)
            await journal.aclose()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asyncio.run(live(folder))
        assert on_disk(folder) == expected
