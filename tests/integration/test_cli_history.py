"""`fsm-runner history`, from journals as runners write them."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.cli.history import show_history
from fsm_runner.errors import UsageError
from fsm_runner.journal.journal import Journal
from fsm_runner.journal.records import Report, Transition, TreeSession, UsageSums
from tests.support.program import environment, finish

Console = pytest.CaptureFixture[str]


def carry_out(folder: Path, *statements: str) -> None:
    with closing(sqlite3.connect(folder / "journal.sqlite", isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


def step(journal: Journal, machine: str, subject: str, event: str, target: str, reason: str = "") -> None:
    outcome = target if target in ("completed", "failed", "stopped") else None
    journal.record_transition(Transition(machine, subject, event, None, target, outcome, reason))


async def live(folder: Path, run_id: str, *, session_id: str = "ses_1", ends: bool = True) -> None:
    journal = Journal(folder)
    step(journal, "run", run_id, "begun", "claimed")
    journal.record_claim(run_id, session_id, "hello", "lnch_1", b"{}")
    step(journal, "run", run_id, "accepted", "executing")
    if ends:
        step(journal, "run", run_id, "execution_failed", "reporting", "it broke\nin line 2")
        journal.record_report(run_id, Report(f"/runner/runs/{run_id}/failed", b'{"error":"it broke"}'))
        step(journal, "run", run_id, "reported", "failed")
        journal.record_run_end(run_id)
    await journal.aclose()


def set_times(folder: Path) -> None:
    """Set the times of the first four transitions: 1 s, then 1 s in another process, then 2 ms."""
    rows = [("10", 1.0, "a"), ("11", 2.0, "a"), ("12", 50.0, "b"), ("12", 50.002, "b")]
    carry_out(
        folder,
        "UPDATE runs SET claimed_at = '2026-01-01T00:00:10.000000Z'",
        *(
            f"UPDATE transitions SET at = '2026-01-01T00:00:{second}.000000Z', monotonic_s = {monotonic_s}, "
            f"process = '{process}' WHERE seq = {seq}"
            for seq, (second, monotonic_s, process) in enumerate(rows, start=1)
        ),
    )


def printed(console: Console) -> list[str]:
    return console.readouterr().out.splitlines()


def objects(console: Console) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed(console)]


async def test_a_runs_life_is_a_table_with_durations(tmp_path: Path, capsys: Console) -> None:
    await live(tmp_path / "0123", "run_1")
    set_times(tmp_path / "0123")
    show_history(tmp_path, "run_1", as_json=False)
    assert printed(capsys) == [
        "run_1  agent hello  session ses_1  runner lnch_1",
        "",
        "TIME                      STATE      EVENT             STAYED  REASON",
        "2026-01-01T00:00:10.000Z  claimed    begun             1.0 s",
        "2026-01-01T00:00:11.000Z  executing  accepted          1.0 s",
        "2026-01-01T00:00:12.000Z  reporting  execution_failed  2 ms    it broke",
        "2026-01-01T00:00:12.000Z  failed     reported",
        "",
        'failed after 2.0 s; reported: /runner/runs/run_1/failed {"error":"it broke"}',
    ]


async def test_the_last_state_of_an_open_run_still_lasts(tmp_path: Path, capsys: Console) -> None:
    await live(tmp_path / "0123", "run_1", ends=False)
    show_history(tmp_path, "run_1", as_json=False)
    *_, last, empty, ending = printed(capsys)
    assert last.split()[1:3] == ["executing", "accepted"]
    assert last.endswith(" so far")
    assert (empty, ending) == ("", "open")


async def test_a_pending_report_is_shown(tmp_path: Path, capsys: Console) -> None:
    await live(tmp_path / "0123", "run_1", ends=False)
    journal = Journal(tmp_path / "0123")
    journal.record_report("run_1", Report("/runner/runs/run_1/completed", b"{}"))
    await journal.aclose()
    show_history(tmp_path, "run_1", as_json=False)
    assert printed(capsys)[-1] == "open; to be reported: /runner/runs/run_1/completed {}"


async def test_the_usage_of_a_run_is_shown(tmp_path: Path, capsys: Console) -> None:
    await live(tmp_path / "0123", "run_1")
    journal = Journal(tmp_path / "0123")
    journal.record_usage("run_1", b'{"input_tokens":1200,"cost_usd":0.5}')
    await journal.aclose()
    show_history(tmp_path, "run_1", as_json=False)
    assert "(1,200 tokens in, 0.5000 USD); reported: " in printed(capsys)[-1]
    show_history(tmp_path, "run_1", as_json=True)
    assert objects(capsys)[0]["usage"] == {"input_tokens": 1200, "cost_usd": 0.5}


async def test_the_usage_of_a_session_and_its_tree_is_shown(tmp_path: Path, capsys: Console) -> None:
    await live(tmp_path / "0123", "run_1")
    journal = Journal(tmp_path / "0123")
    root, child = UsageSums(cost_usd=0.25, tokens=1_000, turns=5), UsageSums(tokens=234, turns=1)
    journal.record_tree_session(TreeSession(session_id="ses_0", root_session_id="ses_0", depth=0, used=root))
    journal.record_tree_session(TreeSession(session_id="ses_1", root_session_id="ses_0", depth=1, used=child))
    await journal.aclose()
    show_history(tmp_path, "ses_1", as_json=False)
    assert printed(capsys)[-3:] == [
        "",
        "used: 234 tokens, 0 USD, 1 turn",
        "used by the tree of session ses_0: 1,234 tokens, 0.25 USD, 6 turns",
    ]
    show_history(tmp_path, "ses_1", as_json=True)
    assert objects(capsys)[-1] == {
        "type": "usage",
        "journal": "0123",
        "session_id": "ses_1",
        "depth": 1,
        "used": {"cost_usd": 0.0, "tokens": 234, "turns": 1},
        "root_session_id": "ses_0",
        "below_root": 1,
        "used_by_tree": {"cost_usd": 0.25, "tokens": 1234, "turns": 6},
    }


async def test_a_journal_of_an_older_version_is_shown_without_a_migration(tmp_path: Path, capsys: Console) -> None:
    await live(tmp_path / "0123", "run_1")
    carry_out(
        tmp_path / "0123",
        "DROP TABLE workflows",
        "DROP TABLE workflow_visits",
        "DROP TABLE reruns",
        "DROP TABLE tree_sessions",
        "ALTER TABLE runs DROP COLUMN wait",
        "ALTER TABLE runs DROP COLUMN workspace",
        "ALTER TABLE runs DROP COLUMN usage",
        "ALTER TABLE transitions DROP COLUMN provisional",
        "PRAGMA user_version=1",
    )
    show_history(tmp_path, "run_1", as_json=False)
    assert printed(capsys)[-1].startswith("failed after ")
    show_history(tmp_path, "ses_1", as_json=False)
    assert printed(capsys)[-1].startswith("run_1 ")


async def test_json_has_the_run_and_each_step_in_full(tmp_path: Path, capsys: Console) -> None:
    await live(tmp_path / "0123", "run_1")
    set_times(tmp_path / "0123")
    show_history(tmp_path, "run_1", as_json=True)
    run, *steps = objects(capsys)
    assert run["ended_at"] is not None
    assert {key: value for key, value in run.items() if key != "ended_at"} == {
        "type": "run",
        "journal": "0123",
        "run_id": "run_1",
        "session_id": "ses_1",
        "agent": "hello",
        "runner_id": "lnch_1",
        "claimed_at": "2026-01-01T00:00:10.000000Z",
        "state": "failed",
        "outcome": "failed",
        "lasted_s": pytest.approx(2.002),
        "report_path": "/runner/runs/run_1/failed",
        "report_body": '{"error":"it broke"}',
        "usage": None,
    }
    assert [each["stayed_s"] for each in steps] == [1.0, 1.0, pytest.approx(0.002), None]
    assert steps[2] == {
        "type": "step",
        "journal": "0123",
        "at": "2026-01-01T00:00:12.000000Z",
        "machine": "run",
        "subject": "run_1",
        "event": "execution_failed",
        "source": None,
        "target": "reporting",
        "outcome": None,
        "reason": "it broke\nin line 2",
        "provisional": False,
        "stayed_s": pytest.approx(0.002),
    }


async def test_a_clock_that_was_set_back_over_a_restart_gives_no_negative_duration(
    tmp_path: Path, capsys: Console
) -> None:
    await live(tmp_path / "0123", "run_1")
    set_times(tmp_path / "0123")
    carry_out(tmp_path / "0123", "UPDATE transitions SET at = '2025-01-01T00:00:00.000000Z' WHERE seq = 3")
    show_history(tmp_path, "run_1", as_json=True)
    assert [each["stayed_s"] for each in objects(capsys)[1:]] == [1.0, 0.0, pytest.approx(0.002), None]


async def test_control_characters_are_not_printed(tmp_path: Path, capsys: Console) -> None:
    journal = Journal(tmp_path / "0123")
    journal.record_claim("run_1", "ses_1", None, "lnch_1", b"{}")
    step(journal, "run", "run_1", "execution_failed", "reporting", "a bell: \x07" + "x" * 100)
    await journal.aclose()
    show_history(tmp_path, "run_1", as_json=False)
    row = printed(capsys)[3]
    assert "\x07" not in row
    assert row.endswith("x…")


async def test_the_latest_twenty_runs_of_all_journals_are_listed_newest_last(tmp_path: Path, capsys: Console) -> None:
    for identity in ("0123", "4567"):
        journal = Journal(tmp_path / identity)
        for number in range(15):
            journal.record_claim(f"run_{identity}_{number}", "ses_1", None, "lnch_1", b"{}")
        await journal.aclose()
    await live(tmp_path / "0123", "run_last")
    show_history(tmp_path, None, as_json=True)
    names = [run["run_id"] for run in objects(capsys)]
    assert names == [*(f"run_0123_{n}" for n in range(11, 15)), *(f"run_4567_{n}" for n in range(15)), "run_last"]


async def test_the_list_says_where_each_run_is_and_how_long_it_took(tmp_path: Path, capsys: Console) -> None:
    await live(tmp_path / "0123", "run_1")
    set_times(tmp_path / "0123")
    await live(tmp_path / "0123", "run_open", ends=False)
    show_history(tmp_path, None, as_json=False)
    columns, ended, is_open = printed(capsys)
    assert columns.split() == ["RUN", "SESSION", "AGENT", "STATE", "CLAIMED", "LASTED"]
    assert ended.split() == ["run_1", "ses_1", "hello", "failed", "2026-01-01T00:00:10.000Z", "2.0", "s"]
    assert is_open.split()[:4] == ["run_open", "ses_1", "hello", "executing"]
    assert is_open.endswith(" so far")


async def test_a_session_has_its_own_life_and_its_runs(tmp_path: Path, capsys: Console) -> None:
    await live(tmp_path / "0123", "run_1", session_id="ses_live")
    journal = Journal(tmp_path / "0123")
    journal.record_session_start("ses_live", "lnch_1", b"{}")
    step(journal, "session", "ses_live", "started", "busy")
    step(journal, "session", "ses_live", "turn_completed", "idle")
    await journal.aclose()
    await live(tmp_path / "0123", "run_2", session_id="ses_live")
    await live(tmp_path / "0123", "run_other", session_id="ses_other")
    show_history(tmp_path, "ses_live", as_json=True)
    found = objects(capsys)
    assert [each["type"] for each in found] == ["session", "step", "step", "run", "run"]
    assert [each["target"] for each in found[1:3]] == ["busy", "idle"]
    assert [each["run_id"] for each in found[3:]] == ["run_1", "run_2"]
    show_history(tmp_path, "ses_live", as_json=False)
    text = printed(capsys)
    assert text[0] == "ses_live  runner lnch_1"
    assert [line.split()[1] for line in text[3:5]] == ["busy", "idle"]
    assert [line.split()[0] for line in text[7:]] == ["run_1", "run_2"]


async def test_a_session_without_a_life_of_its_own_has_its_runs(tmp_path: Path, capsys: Console) -> None:
    await live(tmp_path / "0123", "run_1")
    show_history(tmp_path, "ses_1", as_json=False)
    assert [line.split()[0] for line in printed(capsys)] == ["RUN", "run_1"]


async def test_the_latest_fifty_transitions_of_the_runner_are_listed(tmp_path: Path, capsys: Console) -> None:
    for identity, count in (("0123", 60), ("4567", 30)):
        journal = Journal(tmp_path / identity)
        for number in range(count):
            step(journal, "runner", "runner", f"event_{identity}_{number}", "online")
        await journal.aclose()
    await live(tmp_path / "0123", "run_1")
    show_history(tmp_path, "runner", as_json=True)
    expected = [*(f"event_0123_{n}" for n in range(40, 60)), *(f"event_4567_{n}" for n in range(30))]
    assert [each["event"] for each in objects(capsys)] == expected
    show_history(tmp_path, "runner", as_json=False)
    columns, first, *_ = printed(capsys)
    assert columns.split() == ["JOURNAL", "TIME", "STATE", "EVENT", "STAYED", "REASON"]
    assert first.split()[0] == "0123"
    assert first.split()[3] == "event_0123_40"


async def test_it_reads_while_a_runner_is_at_work(tmp_path: Path, capsys: Console) -> None:
    journal = Journal(tmp_path / "0123")
    try:
        for number in range(3):
            journal.record_claim(f"run_{number}", "ses_1", None, "lnch_1", b"{}")
            await journal.flush()
            show_history(tmp_path, None, as_json=True)
            assert [run["run_id"] for run in objects(capsys)] == [f"run_{n}" for n in range(number + 1)]
        assert journal.unwritable is None
    finally:
        await journal.aclose()


@pytest.fixture
def damaged(tmp_path: Path) -> Iterator[Path]:
    file = tmp_path / "dead" / "journal.sqlite"
    file.parent.mkdir()
    file.write_bytes(b"no database" * 1_000)
    yield file


async def test_a_journal_that_cannot_be_read_does_not_hide_the_others(
    tmp_path: Path, damaged: Path, capsys: Console
) -> None:
    await live(tmp_path / "0123", "run_1")
    show_history(tmp_path, None, as_json=True)
    out, err = capsys.readouterr()
    assert json.loads(out)["run_id"] == "run_1"
    assert err == f"left out: {damaged}: the journal cannot be read: file is not a database\n"


def test_the_only_journal_is_named_if_it_cannot_be_read(tmp_path: Path, damaged: Path) -> None:
    with pytest.raises(UsageError, match=f"{damaged}: the journal cannot be read: file is not a database"):
        show_history(tmp_path, None, as_json=False)


async def test_an_unknown_name_is_an_error_that_names_the_folder(tmp_path: Path) -> None:
    await live(tmp_path / "0123", "run_1")
    with pytest.raises(UsageError, match=f"there is nothing about 'run_2' in the journals in {tmp_path};"):
        show_history(tmp_path, "run_2", as_json=False)


@pytest.mark.parametrize("name", [None, "run_1", "runner"])
def test_a_folder_without_journals_is_named(tmp_path: Path, name: str | None) -> None:
    with pytest.raises(UsageError, match=f"there is no journal in {tmp_path / 'state'}: no runner has kept one there"):
        show_history(tmp_path / "state", name, as_json=False)


async def test_the_command_prints_it(tmp_path: Path) -> None:
    await live(tmp_path / "state" / "0123", "run_1")
    env = environment(None)
    found = await finish(tmp_path, env, "history", "run_1", "--state-dir", str(tmp_path / "state"))
    assert (found.code, found.stderr) == (0, "")
    assert found.stdout.startswith("run_1  agent hello  session ses_1")
    missing = await finish(tmp_path, env, "history", "run_2", "--state-dir", str(tmp_path / "state"))
    assert missing.code == 2
    assert "there is nothing about 'run_2'" in missing.stderr
