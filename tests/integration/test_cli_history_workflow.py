"""`fsm-runner history RUN` of a run that follows a workflow."""

import asyncio
import contextlib
import io
import json
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsm_runner.cli.history import show_history
from fsm_runner.journal.journal import Journal
from fsm_runner.journal.records import Transition, WorkflowRecord

Console = pytest.CaptureFixture[str]

WORKFLOW = WorkflowRecord(
    name="ship",
    path="/home/workflows/ship.toml",
    text="name = 'ship'\n",
    sha256="0123456789abcdef" * 4,
    schemas=b'{"write":{"type":"object"}}',
    parameters=b'{"task":"do it"}',
)
INDENT = "  "


def value_of(**fields: object) -> bytes:
    return msgspec.json.encode({"ok": True, "error": "", **fields})


async def live(folder: Path, *, workflow: WorkflowRecord = WORKFLOW) -> None:
    """Write, fail to verify, write again, and ask a person."""
    journal = Journal(folder)
    journal.record_claim("run_1", "ses_1", "hello", "lnch_1", b"{}")
    journal.record_transition(Transition("run", "run_1", "prepared", "preparing_workspace", "executing", None, ""))
    journal.record_workflow("run_1", workflow)
    journal.record_visit("run_1", 1, "write", None)
    journal.record_visit_interrupted("run_1", 1, 2)
    written = value_of(result="a text")
    journal.record_visit_end("run_1", 1, "done", "verify", "work", written, b'{"cost_usd":0.5,"turns":3}')
    journal.record_transition(Transition("workflow", "run_1", "done", "write", "verify", None, ""))
    journal.record_visit("run_1", 2, "verify", 1_800_000_000.0)
    failed = msgspec.json.encode({"ok": False, "error": "exit code 1\nfurther", "exit_code": 1, "stdout": "x" * 100})
    journal.record_visit_end("run_1", 2, "error", "write", "verify", failed, None)
    journal.record_visit("run_1", 3, "write", None)
    journal.record_visit_interrupted("run_1", 3, 1)
    journal.record_visit_end("run_1", 3, "done", "ask", "work", value_of(result="another"), None)
    journal.record_visit("run_1", 4, "ask", 1_800_000_000.0)
    decision = value_of(by="anna", comment="not yet", at="2026-01-01T00:04:09.995123Z")
    journal.record_visit_end("run_1", 4, "denied", "pause", "decision", decision, None)
    journal.record_visit("run_1", 5, "pause", 1_800_000_000.0)
    await journal.aclose()


def set_times(folder: Path) -> None:
    """Let each visit begin a minute after the one before, and end after 10 s."""
    with closing(sqlite3.connect(folder / "journal.sqlite", isolation_level=None)) as connection:
        connection.execute(
            "UPDATE workflow_visits SET began_at = '2026-01-01T00:0' || number || ':00.000000Z', "
            "ended_at = CASE WHEN ended_at IS NULL THEN NULL ELSE '2026-01-01T00:0' || number || ':10.000000Z' END"
        )


def printed(console: Console) -> list[str]:
    return console.readouterr().out.splitlines()


def table_in(lines: list[str]) -> list[str]:
    """Return the lines of the workflow: the title, an empty line, and the table."""
    indented = [at for at, line in enumerate(lines) if line.startswith(INDENT)]
    return lines[indented[0] : indented[-1] + 1]


async def test_the_visits_are_a_table_below_the_states_of_the_run(tmp_path: Path, capsys: Console) -> None:
    await live(tmp_path / "0123")
    set_times(tmp_path / "0123")
    show_history(tmp_path, "run_1", as_json=False)
    lines = printed(capsys)
    title, empty, columns, first, second, third, fourth, last = table_in(lines)
    assert (title, empty) == ("  workflow ship  sha256 0123456789ab  /home/workflows/ship.toml", "")
    assert columns.split() == ["VISIT", "STATE", "BEGAN", "TOOK", "ENDING", "USED", "VALUE"]
    rows = [line.split() for line in (first, second, third, fourth, last)]
    assert [row[:2] for row in rows] == [["1", "write"], ["2", "verify"], ["3", "write"], ["4", "ask"], ["5", "pause"]]
    assert "2026-01-01T00:01:00.000Z  10.0 s" in first
    assert "done → verify, interrupted 2 times" in first
    assert "0.5000 USD, 3 turns" in first
    assert first.endswith('{"result":"a text"}')
    assert "error → write" in second
    assert second.endswith("exit code 1")
    assert "write (2)" in third
    assert "done → ask, interrupted " in third
    assert "denied → pause, by anna at 2026-01-01T00:04:09.995123Z" in fourth
    assert fourth.endswith('{"by":"anna","comment":"not yet","at":"2026-01-01T00:04:09.995123Z"}')
    assert "open until 2027-01-15T08:00:00Z" in last
    assert " so far" in last
    assert lines.index(title) > next(at for at, line in enumerate(lines) if " executing " in line)
    assert lines[-1] == "open"


async def test_a_run_that_ends_during_a_visit_ends_the_visit(tmp_path: Path, capsys: Console) -> None:
    await live(tmp_path / "0123")
    journal = Journal(tmp_path / "0123")
    journal.record_workflow_end("run_1", "stopped")
    journal.record_workflow_end("run_1", "failed")
    await journal.aclose()
    set_times(tmp_path / "0123")
    show_history(tmp_path, "run_1", as_json=False)
    *_, fourth, last = table_in(printed(capsys))
    assert "denied → pause" in fourth
    assert last.split() == ["5", "pause", "2026-01-01T00:05:00.000Z", "10.0", "s", "stopped"]


async def test_a_repetition_names_the_run_that_it_repeats(tmp_path: Path, capsys: Console) -> None:
    again = msgspec.structs.replace(WORKFLOW, rerun_of="run_0", rerun_from="verify", initial_values=b'{"work":{}}')
    await live(tmp_path / "0123", workflow=again)
    show_history(tmp_path, "run_1", as_json=False)
    assert table_in(printed(capsys))[0].endswith("/home/workflows/ship.toml  repeats run_0 from verify")


async def test_json_has_the_workflow_its_steps_and_all_values(tmp_path: Path, capsys: Console) -> None:
    again = msgspec.structs.replace(WORKFLOW, rerun_of="run_0", rerun_from="verify", initial_values=b'{"work":{}}')
    await live(tmp_path / "0123", workflow=again)
    set_times(tmp_path / "0123")
    show_history(tmp_path, "run_1", as_json=True)
    lines: list[dict[str, Any]] = [json.loads(line) for line in printed(capsys)]
    assert [(line["type"], line.get("machine")) for line in lines] == [
        ("run", None),
        ("step", "run"),
        ("workflow", None),
        ("step", "workflow"),
        *[("visit", None)] * 5,
    ]
    workflow, step, visit = lines[2], lines[3], lines[5]
    del workflow["began_at"]
    assert workflow == {
        "type": "workflow",
        "journal": "0123",
        "run_id": "run_1",
        "name": "ship",
        "path": "/home/workflows/ship.toml",
        "sha256": WORKFLOW.sha256,
        "text": WORKFLOW.text,
        "schemas": {"write": {"type": "object"}},
        "parameters": {"task": "do it"},
        "rerun_of": "run_0",
        "rerun_from": "verify",
        "initial_values": {"work": {}},
    }
    assert (step["subject"], step["source"], step["target"]) == ("run_1", "write", "verify")
    assert visit == {
        "type": "visit",
        "journal": "0123",
        "run_id": "run_1",
        "number": 2,
        "state": "verify",
        "began_at": "2026-01-01T00:02:00.000000Z",
        "due_at": "2027-01-15T08:00:00Z",
        "interruptions": 0,
        "ended_at": "2026-01-01T00:02:10.000000Z",
        "lasted_s": 10.0,
        "ending": "error",
        "target": "write",
        "value_name": "verify",
        "value": {"ok": False, "error": "exit code 1\nfurther", "exit_code": 1, "stdout": "x" * 100},
        "usage": None,
    }
    assert lines[4]["usage"] == {"cost_usd": 0.5, "turns": 3}
    assert (lines[8]["ending"], lines[8]["value"], lines[8]["lasted_s"]) == (None, None, None)


async def test_a_run_without_a_workflow_has_no_table(tmp_path: Path, capsys: Console) -> None:
    journal = Journal(tmp_path / "0123")
    journal.record_claim("run_1", "ses_1", None, "lnch_1", b"{}")
    await journal.aclose()
    show_history(tmp_path, "run_1", as_json=False)
    assert not any("workflow" in line or "VISIT" in line for line in printed(capsys))


async def show_values(folder: Path, *values: bytes) -> None:
    journal = Journal(folder)
    journal.record_claim("run_1", "ses_1", None, "lnch_1", b"{}")
    journal.record_workflow("run_1", WORKFLOW)
    for number, value in enumerate(values, 1):
        journal.record_visit("run_1", number, "write", None)
        journal.record_visit_end("run_1", number, "done", "write", "write", value, None)
    await journal.aclose()
    show_history(folder.parent, "run_1", as_json=False)


NOISE = "\x1b[2J\x1b]0;title\x07\r\n\u202e\u2028\ud800" * 3


@pytest.mark.parametrize(
    "fields",
    [
        {"result": NOISE},
        {NOISE: 1},
        {"ok": False, "error": NOISE},
        {"by": NOISE, "comment": NOISE},
        {"by": ["no", "text"], "comment": NOISE},
        {"result": "x" * 10_000_000},
        {"ok": False, "error": "x\n" * 5_000_000},
        {"data": [[[[NOISE]]]] * 1_000},
    ],
    ids=["result", "name", "error", "decision", "no decision", "10 MB", "10 MB error", "list"],
)
async def test_a_hostile_value_takes_one_line(tmp_path: Path, capsys: Console, fields: dict[str, Any]) -> None:
    value = json.dumps({"ok": True, "error": "", **fields}).encode()
    await show_values(tmp_path / "0123", value)
    text = capsys.readouterr().out
    *_, row, empty, ending = text.splitlines()
    assert (row.split()[:2], empty, ending) == (["1", "write"], "", "open")
    assert len(row) < 500
    assert not any((ord(letter) < 32 and letter != "\n") or letter in "\x7f\u202e\u2028" for letter in text)


@pytest.mark.parametrize("value", [b"", b"no JSON \x1b[2J", b'{"a":' * 100_000, b"[1]", b"\xff\xfe"], ids=len)
async def test_a_value_that_cannot_be_decoded_takes_one_line(tmp_path: Path, capsys: Console, value: bytes) -> None:
    await show_values(tmp_path / "0123", value)
    text = capsys.readouterr().out
    *_, row, _, _ = text.splitlines()
    assert row.split()[:2] == ["1", "write"]
    assert "\x1b" not in text


@given(st.lists(st.dictionaries(st.sampled_from(["result", "by", "comment", "error"]), st.text() | st.integers())))
@settings(max_examples=10)
def test_any_value_takes_one_line(values: list[dict[str, Any]]) -> None:
    out = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(out):
        asyncio.run(show_values(Path(folder) / "0123", *(json.dumps(value).encode() for value in values)))
    table = out.getvalue().split("VISIT  ")[1].splitlines()
    assert [row.split()[:2] for row in table[1:-2]] == [[str(number + 1), "write"] for number in range(len(values))]
