"""The watch over file descriptors, and the states of a runner during a shortage."""

import asyncio

import pytest

from fsm_runner.errors import UsageError
from fsm_runner.machine.engine import Model
from fsm_runner.process.limits.open_files import OpenFiles
from fsm_runner.runtime.actors.interfaces import load_machine
from fsm_runner.runtime.control.descriptors import (
    CHECK_INTERVAL_S,
    FREED_AFTER_S,
    LASTING_AFTER_S,
    DescriptorWatch,
    check_limit,
)
from tests.support.logs import log_lines
from tests.support.virtual_time import in_virtual_time

RUNNER = load_machine("runner")
SHORT, UNWRITABLE = "descriptors_are_short", "journal_is_unwritable"


class FakeOpenFiles(OpenFiles):
    """118 descriptors are for runs."""

    limit = 300
    in_use = 20


def has_room(example: "WatchExample") -> bool:
    return example.watch.has_room


def has_lasting_shortage(example: "WatchExample") -> bool:
    return example.watch.has_lasting_shortage


class FakeLoad:
    held = 0
    unstarted = 0

    def __len__(self) -> int:
        return self.held


class WatchExample:
    def __init__(self) -> None:
        self.files, self.load = FakeOpenFiles(), FakeLoad()
        self.changes: list[str] = []
        self.watch = DescriptorWatch(
            self.load, self.changes.append, lambda: self.changes.append("freed"), open_files=self.files
        )

    def look(self, *, held: int, unstarted: int, in_use: int) -> list[str]:
        """What it has told by now."""
        self.load.held, self.load.unstarted, self.files.in_use = held, unstarted, in_use
        self.watch.check()
        return self.changes


@in_virtual_time
async def test_a_lack_of_room_that_passes_is_not_one_for_good() -> None:
    example = WatchExample()
    example.look(held=1, unstarted=0, in_use=118)
    await asyncio.sleep(LASTING_AFTER_S - 0.5)
    assert not has_lasting_shortage(example)
    example.look(held=1, unstarted=0, in_use=20)
    example.look(held=1, unstarted=0, in_use=118)
    await asyncio.sleep(LASTING_AFTER_S - 0.5)
    assert not has_lasting_shortage(example)
    await asyncio.sleep(0.6)
    assert has_lasting_shortage(example)
    example.watch.close()


@in_virtual_time
async def test_a_run_without_a_process_counts_as_if_it_had_one() -> None:
    example = WatchExample()
    assert example.look(held=11, unstarted=11, in_use=20) == []
    assert has_room(example)
    [reason] = example.look(held=12, unstarted=12, in_use=20)
    assert not has_room(example)
    assert reason == (
        "a run needs 8 file descriptors; free of the 118 for runs: 2 (`ulimit -n` 300, 20 in use, "
        "96 reserved for runs that have not started their process yet); runs held: 12"
    )
    example.watch.close()


@in_virtual_time
async def test_a_shortage_ends_when_there_has_been_room_for_a_while() -> None:
    """Runs are claimed as soon as there is room, but the runner does not change its state with each of them."""
    example = WatchExample()
    for _ in range(3):
        assert len(example.look(held=20, unstarted=0, in_use=111)) == 1
        assert not has_room(example)
        await asyncio.sleep(FREED_AFTER_S - 1)
        assert len(example.look(held=19, unstarted=0, in_use=110)) == 1
        assert has_room(example)
    await asyncio.sleep(FREED_AFTER_S + CHECK_INTERVAL_S + 0.1)
    assert example.changes[1:] == ["freed"]


@in_virtual_time
async def test_while_descriptors_are_short_it_looks_by_itself() -> None:
    example = WatchExample()
    example.look(held=1, unstarted=0, in_use=118)
    example.files.in_use = 20
    await asyncio.sleep(FREED_AFTER_S + CHECK_INTERVAL_S)
    assert example.changes[1:] == ["freed"]
    example.look(held=1, unstarted=0, in_use=118)
    example.watch.close()
    example.files.in_use = 20
    await asyncio.sleep(10 * CHECK_INTERVAL_S)
    assert len(example.changes) == len(["short", "freed", "short"])


def test_a_limit_that_is_too_low_for_one_run_is_refused() -> None:
    files = FakeOpenFiles()
    check_limit(None, files)
    files.in_use = 110
    check_limit(None, files)
    files.in_use = 111
    with pytest.raises(UsageError, match="is 300, too low for a single run: raise it to 302 at least"):
        check_limit(None, files)
    files.limit = 302
    check_limit(None, files)


@pytest.mark.parametrize(("max_runs", "warnings"), [(19, 0), (20, 1), (None, 0)])
def test_more_runs_than_the_limit_holds_are_warned_of(max_runs: int | None, warnings: int) -> None:
    with log_lines() as log:
        check_limit(max_runs, FakeOpenFiles())
    assert len([line for line in log if "about 19 runs at once and not for --max-runs 20" in line]) == warnings


def model_in(state: str, *facts: str) -> Model:
    model = RUNNER.model()
    model.state, model.facts = state, frozenset(facts)
    return model


@pytest.mark.parametrize(
    ("state", "facts", "events", "target"),
    [
        ("online", [SHORT], ["descriptors_short"], "saturated"),
        ("disconnected", [SHORT], ["descriptors_short"], "saturated"),
        ("saturated", [], ["descriptors_freed"], "online"),
        ("saturated", [SHORT], ["coordinator_lost", "coordinator_answered", "journal_writable"], "saturated"),
        ("saturated", [SHORT, UNWRITABLE], ["journal_unwritable"], "suspended"),
        ("suspended", [SHORT, UNWRITABLE], ["descriptors_short"], "suspended"),
        ("suspended", [UNWRITABLE], ["descriptors_freed"], "suspended"),
        ("suspended", [SHORT], ["journal_writable"], "saturated"),
        ("suspended", [SHORT], ["journal_writable", "descriptors_freed"], "online"),
        ("suspended", [], ["journal_writable"], "online"),
        ("registering", [SHORT], ["descriptors_short", "registered"], "saturated"),
        ("registering", [SHORT, UNWRITABLE], ["registered"], "suspended"),
        ("registering", [], ["descriptors_short", "descriptors_freed", "registered"], "online"),
        ("saturated", [SHORT], ["registration_lost", "registered"], "saturated"),
        ("saturated", [SHORT], ["drain_requested", "descriptors_freed"], "draining"),
        ("draining", [SHORT], ["descriptors_short"], "draining"),
        ("saturated", [SHORT], ["stop_now_requested", "descriptors_short"], "stopping_runs"),
        ("saturated", [SHORT], ["exit_requested"], "aborted"),
        ("recovering", [SHORT], ["descriptors_short", "recovered", "registered"], "saturated"),
    ],
)
def test_each_combination_has_its_state(state: str, facts: list[str], events: list[str], target: str) -> None:
    model = model_in(state, *facts)
    for event in events:
        RUNNER.fire(model, event)
    assert model.state == target
