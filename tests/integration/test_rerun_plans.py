"""What a run begins with that repeats another one, from journals as runners write them."""

import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from fsm_runner.errors import UsageError
from fsm_runner.journal.journal import Journal
from fsm_runner.journal.reader import Reader
from fsm_runner.journal.records import Report
from fsm_runner.journal.workflows import carried_values
from fsm_runner.runtime.workflow.rerun_plan import Replacement, RerunPlan, plan_of
from tests.support.ended_workflow import RUN, SHIP, load, record_of, value, write_ended_run

PLAN = """
[states.plan]
command = { run = ["true"] }
timeout_s = 60
on_done = "write"
"""
NEEDS_PLAN = SHIP.replace("published: ${work.stdout}", "published: ${plan.stdout}")
NEEDS_PLAN = NEEDS_PLAN.replace('initial = "write"', 'initial = "plan"') + PLAN
ASK = """
[states.ask]
approval = { question = "Go on?" }
assigns = "work"
timeout_s = 60
on_done = "publish"
on_denied = "failed"
"""
NEEDS_DECISION = SHIP.replace("published: ${work.stdout}", "published: ${work.by}")
NEEDS_DECISION = NEEDS_DECISION.replace('on_done = "publish"', 'on_done = "ask"') + ASK


def plan(folder: Path, state: str, *, run_id: str = RUN, text: str | None = None) -> RerunPlan | None:
    replacement = None if text is None else Replacement(path="/new/ship.toml", text=text, schemas={})
    with closing(Reader(folder / "journal.sqlite")) as reader:
        return plan_of(reader, run_id, state, replacement)


def planned(folder: Path, state: str, text: str | None = None) -> RerunPlan:
    found = plan(folder, state, text=text)
    assert found is not None
    return found


def numbers_in(found: RerunPlan) -> dict[str, object]:
    """Return what shows which visit has assigned each value, by name."""
    values = {name: msgspec.json.decode(text) for name, text in carried_values(found.workflow).items()}
    return {name: each["stdout"] or each["exit_code"] for name, each in values.items()}


@pytest.fixture
async def journal(tmp_path: Path) -> Path:
    record = record_of(load(tmp_path / "home"), project_dir="/project", scope=b'{"key":1}')
    await write_ended_run(tmp_path / "0123", record)
    return tmp_path / "0123"


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("write", {"work": "text 1", "verify": 1}),
        ("verify", {"verify": 1, "work": "text 3"}),
        ("publish", {"work": "text 3", "verify": 3}),
        ("decide", {"work": "text 3", "verify": 3}),
    ],
)
def test_the_values_are_those_before_the_last_visit_of_the_state(
    journal: Path, state: str, expected: dict[str, object]
) -> None:
    found = planned(journal, state)
    assert list(numbers_in(found).items()) == list(expected.items())
    assert (found.workflow.rerun_of, found.workflow.rerun_from) == (RUN, state)


def test_the_rest_is_that_of_the_ended_run(journal: Path, tmp_path: Path) -> None:
    old, found = (
        record_of(load(tmp_path / "home"), project_dir="/project", scope=b'{"key":1}'),
        planned(journal, "verify"),
    )
    assert (found.agent, found.parameters, found.scope) == ("say", {"text": "do it"}, {"key": 1})
    new = {"rerun_of": None, "rerun_from": None, "initial_values": None}
    assert msgspec.structs.replace(found.workflow, **new) == old


def test_a_corrected_workflow_replaces_that_of_the_run(journal: Path) -> None:
    corrected = SHIP.replace("another text", "xtext 3")
    found = planned(journal, "verify", corrected)
    assert (found.workflow.text, found.workflow.path) == (corrected, "/new/ship.toml")
    assert found.workflow.sha256 != planned(journal, "verify").workflow.sha256


async def test_a_repetition_can_be_repeated(journal: Path) -> None:
    first = planned(journal, "verify")
    again = Journal(journal)
    again.record_rerun("ses_2", first.workflow)
    again.record_claim("run_2", "ses_2", "say", "me", b"{}")
    again.record_visit("run_2", 1, "verify", None)
    failed = value(ok=False, error="no", exit_code=7, stdout="", stderr="")
    again.record_visit_end("run_2", 1, "error", "write", "verify", failed, None)
    again.record_run_end("run_2")
    await again.aclose()
    second, third = plan(journal, "verify", run_id="run_2"), plan(journal, "write", run_id="run_2")
    assert second is not None
    assert third is not None
    assert numbers_in(second) == {"verify": 1, "work": "text 3"}
    assert numbers_in(third) == {"work": "text 3", "verify": 7}
    assert second.workflow.rerun_of == "run_2"


def test_another_run_is_not_found(journal: Path) -> None:
    assert plan(journal, "verify", run_id="run_other") is None


@pytest.mark.parametrize(
    ("state", "text", "expected"),
    [
        (
            "verfy",
            None,
            'ship.toml: the state "verfy" does not exist; --from can name one of: write, verify, publish, decide$',
        ),
        ("completed", None, 'the state "completed" is final; --from can name one of: write, '),
        ("verify", SHIP.replace("verify", "check"), '^/new/ship.toml: the state "verify" does not exist; '),
        ("verify", SHIP.replace('text = "string"', 'other = "string"'), "needs the parameter 'other'"),
        ("verify", "name = 1", "/new/ship.toml"),
        ("verify", SHIP.replace("max_visits = 3\n", ""), "^/new/ship.toml:.*max_visits"),
    ],
)
def test_what_does_not_fit_is_refused(journal: Path, state: str, text: str | None, expected: str) -> None:
    with pytest.raises(UsageError, match=expected):
        plan(journal, state, text=text)


@pytest.mark.parametrize(
    ("text", "state", "expected"),
    [
        (NEEDS_PLAN, "publish", "plan.stdout does not exist on the path publish: only plan can assign it"),
        (NEEDS_PLAN, "verify", "plan.stdout does not exist on the path verify → publish: only plan can assign it"),
        (NEEDS_DECISION, "publish", "work.by does not exist on the path publish: only ask can assign it"),
    ],
)
def test_a_value_that_the_run_did_not_have_is_named(journal: Path, text: str, state: str, expected: str) -> None:
    with pytest.raises(UsageError) as refused:
        plan(journal, state, text=text)
    assert str(refused.value).splitlines() == [
        f"/new/ship.toml:20: states.publish.command.run[1]: {expected}; lead the path through such a state before",
        f'the run did not have all values that the workflow needs from "{state}" on: begin with an earlier state, or '
        "correct the workflow (--workflow)",
    ]


def test_a_value_that_the_new_run_assigns_need_not_be_there(journal: Path) -> None:
    assert planned(journal, "plan", NEEDS_PLAN).workflow.rerun_from == "plan"
    assert planned(journal, "verify", NEEDS_DECISION).workflow.rerun_from == "verify"


async def test_a_run_that_has_not_ended_is_refused(tmp_path: Path) -> None:
    await write_ended_run(tmp_path / "0123", record_of(load(tmp_path / "home")), ends=False)
    with pytest.raises(UsageError, match=rf"{RUN} has not ended: stop it first \(`fsm-runner stop {RUN}`\)"):
        plan(tmp_path / "0123", "verify")


async def test_a_run_whose_end_is_being_reported_can_be_repeated(tmp_path: Path) -> None:
    await write_ended_run(tmp_path / "0123", record_of(load(tmp_path / "home")), ends=False)
    journal = Journal(tmp_path / "0123")
    journal.record_report(RUN, Report(f"/runner/runs/{RUN}/failed", b"{}"))
    await journal.aclose()
    assert planned(tmp_path / "0123", "verify").workflow.rerun_of == RUN


@pytest.mark.parametrize("column", ["workflows SET parameters", "workflows SET schemas", "workflow_visits SET value"])
def test_a_damaged_record_is_refused(journal: Path, column: str) -> None:
    with closing(sqlite3.connect(journal / "journal.sqlite", isolation_level=None)) as connection:
        connection.execute(f"UPDATE {column} = '[1'")
    with pytest.raises(UsageError, match=f"the record of {RUN} in the journal is damaged, so it cannot be repeated"):
        plan(journal, "publish")


async def test_a_run_without_a_workflow_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "0123")
    journal.record_claim(RUN, "ses_1", None, "me", b"{}")
    journal.record_run_end(RUN)
    await journal.aclose()
    with pytest.raises(UsageError, match=f"{RUN} followed no workflow, so it has no state from which it could"):
        plan(tmp_path / "0123", "verify")
