"""What a model says never becomes a template, a program, an option or a control sequence."""

import json
import time
from pathlib import Path

import pytest

from fsm_runner.cli.history import show_history
from fsm_runner.workflow.values import TEXT_LIMIT_BYTES
from tests.support.command_executor import command_home
from tests.support.logs import log_lines
from tests.support.workflows import says, shell, steps, workflow, workflow_bench

ESCAPE = "\x1b[31mred\x1b]0;owned\x07"
HOSTILE = f"""--help ${{params.secret}} $${{run.id}} '"`$(touch pwned)`; touch pwned #{ESCAPE}\0\ud800\n\u2028end"""
READABLE = HOSTILE.replace("\0", "�").replace("\ud800", "�")
"""As workflows have it."""
PRINT = 'printf "%s" "$1"; cat'
MEGABYTES = 10
AT_ONCE_S = 60.0


async def test_hostile_text_passes_through_a_workflow_unchanged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flow = workflow(
        speak={"turn": says("${params.text}", ["bind"]), "on_done": "hear"},
        hear={
            "turn": {"parameters": {"prompt": "You said: ${speak.result}", "steps": [["report"]]}},
            "on_done": "print",
        },
        print={
            "command": shell(PRINT, "said: ${speak.result}", stdin="${speak.result}"),
            "on_done": "option",
        },
        option={"command": {"run": ["echo", "${speak.result}"]}, "on_done": "failed", "on_error": "ask"},
        ask={"approval": {"question": "Merge ${speak.result}?"}, "on_done": "refuse", "on_denied": "failed"},
        refuse={"final": True, "outcome": "failed", "error": "not ${speak.result}, said ${ask.comment}"},
        top={"params": {"text": "string", "secret": "string"}},
    )
    async with workflow_bench(tmp_path, flow) as bench:
        with log_lines("DEBUG") as lines:
            run = await bench.submit(text=HOSTILE, secret="expanded twice")
            await bench.enters(run, "ask")
            await bench.decide(run, comment=READABLE)
            error = await bench.fails(run)
        assert error == f"not {READABLE}, said {READABLE}"
        speak, hear, printed, option, asked = (visit.value for visit in bench.visits(run))
        assert speak["result"] == READABLE
        assert hear["data"]["message"]["parameters"]["prompt"] == f"You said: {READABLE}"
        assert printed["stdout"] == f"said: {READABLE}{READABLE}"
        assert "may not begin with `-`" in option["error"]
        assert asked["comment"] == READABLE
        questions = [
            field["approval"]["question"] for field in bench.workflow_fields(run) if field and field["approval"]
        ]
        assert set(questions) == {f"Merge {READABLE}?"}
        assert not list((tmp_path / "project").iterdir())
        shown = "\n".join(lines)
        assert "\x1b" not in shown
        assert "\x07" not in shown
        assert "expanded twice" not in json.dumps([speak, hear, printed, option, asked])
    show_history(tmp_path / "state", run.run_id, as_json=False)
    history = capsys.readouterr().out
    assert "\x1b" not in history
    assert "\0" not in history
    assert all(state in history for state in ("speak", "hear", "print", "option", "ask"))


async def test_ten_megabytes_hold_up_nothing(tmp_path: Path) -> None:
    flow = workflow(
        speak={
            "turn": steps(["bind"], ["long_result", "${params.pattern}", "${params.times}"]),
            "schema": {"type": "object"},
            "on_done": "failed",
            "on_error": "print",
        },
        print={"command": {"run": ["wc", "-c"], "stdin": "${speak.result}"}, "on_done": "completed"},
        top={"result": {"text": "${print.stdout}"}, "params": {"pattern": "string", "times": "integer"}},
    )
    patterns = ["a```\n", "```\n", '{"a":']
    async with workflow_bench(tmp_path, flow, command_home(tmp_path / "home", lifecycle="one_shot")) as bench:
        began_s = time.monotonic()
        runs = [await bench.submit(pattern=pattern, times=MEGABYTES * 2**20 // len(pattern)) for pattern in patterns]
        for run in runs:
            await bench.completes(run)
            assert bench.path(run) == ["speak:error", "print:done"]
            (counted,) = await bench.results(run)
            assert TEXT_LIMIT_BYTES - 1_000 < int(counted) <= TEXT_LIMIT_BYTES
        assert time.monotonic() - began_s < AT_ONCE_S
