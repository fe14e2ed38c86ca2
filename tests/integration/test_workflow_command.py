"""The activity `command`, with real programs."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.process.child.child import OUTPUT_LIMIT_BYTES
from fsm_runner.process.limits.launch_policy import LaunchPolicy
from fsm_runner.process.limits.limits import ResourceLimits
from fsm_runner.process.user import find_user
from fsm_runner.protocol.wire import JsonObject
from fsm_runner.runtime.workflow.command import CommandStep
from fsm_runner.runtime.workflow.context import WorkflowContext
from fsm_runner.runtime.workflow.step import Ended
from fsm_runner.workflow.definition import Command, State
from tests.support.fifo import Fifo
from tests.support.processes import gone
from tests.support.rights import open_place
from tests.support.watch import PATIENCE_S
from tests.support.workflow_steps import PARENT, new_context, new_visit

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a process of another user")

HOSTILE = [
    "${run.id} $HOME `id` $(id)",
    "\"quotes\" 'and' \\ more",
    "--exec=sh",
    "\x1b[31mred\x1b]0;title\x07",
    "line\nbreak\ttab",
    "é\u202e\U0001f600",
    "",
    "; rm -rf .",
]


@pytest.fixture
async def context() -> AsyncIterator[WorkflowContext]:
    async with CoordinatorApi("http://127.0.0.1:9") as api:
        yield new_context(api)


def step(
    context: WorkflowContext, folder: Path, *run: str, written: tuple[str, ...] | None = None, **fields: Any
) -> CommandStep:
    """`written`: the command line as the workflow's file has it."""
    about_visit = {name: fields.pop(name) for name in ("schema", "due_s") if name in fields}
    state = State(command=Command(run=written or run))
    return CommandStep(new_visit("command", Command(run=run, **fields), folder, state=state, **about_visit), context)


async def ended(each: CommandStep) -> Ended:
    try:
        return await asyncio.wait_for(each.perform(), PATIENCE_S)
    finally:
        await each.aclose()


def names(folder: Path) -> list[str]:
    return [file.name for file in folder.iterdir()]


async def failed(each: CommandStep) -> JsonObject:
    end = await ended(each)
    assert end.ending == "error" and end.value["ok"] is False
    return end.value


async def test_a_command_runs_in_the_project_directory_and_its_output_is_its_value(
    context: WorkflowContext, tmp_path: Path
) -> None:
    end = await ended(step(context, tmp_path, "sh", "-c", 'pwd; echo "to err" >&2'))
    assert end == Ended(
        "done", {"ok": True, "error": "", "exit_code": 0, "stdout": f"{tmp_path}\n", "stderr": "to err\n"}
    )


async def test_another_exit_code_is_an_error_with_the_output(context: WorkflowContext, tmp_path: Path) -> None:
    value = await failed(step(context, tmp_path, "sh", "-c", "echo on stdout; echo it broke >&2; exit 3"))
    assert (value["exit_code"], value["stdout"], value["stderr"]) == (3, "on stdout\n", "it broke\n")
    assert value["error"] == "it broke\n--- stdout ---\non stdout\n(exit code 3)"


@pytest.mark.parametrize(
    ("program", "code"),
    [("no-such-program", 127), ("./missing", 127), ("./plain", 126), ("./folder", 126)],
)
async def test_the_exit_code_says_why_a_program_was_not_started(
    context: WorkflowContext, tmp_path: Path, program: str, code: int
) -> None:
    (tmp_path / "plain").write_text("#!/bin/sh\n")
    (tmp_path / "folder").mkdir()
    value = await failed(step(context, tmp_path, program))
    assert value["exit_code"] == code
    assert program.removeprefix("./") in value["error"] and value["stdout"] == value["stderr"] == ""


async def test_a_command_that_is_killed_says_so(context: WorkflowContext, tmp_path: Path) -> None:
    value = await failed(step(context, tmp_path, "sh", "-c", "kill -SEGV $$"))
    assert value["exit_code"] == 139 and "SIGSEGV" in value["error"]


@pytest.mark.parametrize("text", HOSTILE)
async def test_an_argument_reaches_the_program_as_it_is(context: WorkflowContext, tmp_path: Path, text: str) -> None:
    end = await ended(step(context, tmp_path, "printf", "%s", f"={text}", written=("printf", "%s", "=${work.result}")))
    assert end.value["stdout"] == f"={text}" and names(tmp_path) == []


@pytest.mark.parametrize("text", [*HOSTILE, "a\0b", "x" * 1_000_000])
async def test_text_on_stdin_reaches_the_program_as_it_is(context: WorkflowContext, tmp_path: Path, text: str) -> None:
    end = await ended(step(context, tmp_path, "cat", stdin=text))
    assert end.value["stdout"] == text


async def test_a_program_need_not_read_its_input(context: WorkflowContext, tmp_path: Path) -> None:
    assert (await ended(step(context, tmp_path, "true", stdin="x" * 1_000_000))).ending == "done"


async def test_a_lone_surrogate_on_stdin_is_replaced(context: WorkflowContext, tmp_path: Path) -> None:
    assert (await ended(step(context, tmp_path, "cat", stdin="a\ud800b"))).value["stdout"] == "a?b"


async def test_without_stdin_a_program_reads_nothing(context: WorkflowContext, tmp_path: Path) -> None:
    assert (await ended(step(context, tmp_path, "cat"))).value["stdout"] == ""


async def test_a_value_that_looks_like_an_option_is_refused(context: WorkflowContext, tmp_path: Path) -> None:
    value = await failed(step(context, tmp_path, "touch", "--", "--x", written=("touch", "--", "${work.result}")))
    assert value["exit_code"] == 126 and "'--x'" in value["error"] and "${work.result}" in value["error"]
    assert names(tmp_path) == []
    await ended(step(context, tmp_path, "touch", "--", "./--x", written=("touch", "--", "./${work.result}")))
    assert names(tmp_path) == ["--x"]


async def test_a_nul_in_an_argument_starts_nothing(context: WorkflowContext, tmp_path: Path) -> None:
    value = await failed(step(context, tmp_path, "touch", "a\0b"))
    assert value["exit_code"] == 126 and "argument 1" in value["error"]


async def test_long_output_keeps_its_beginning_and_its_end(context: WorkflowContext, tmp_path: Path) -> None:
    script = "echo begin; head -c 10485760 /dev/zero | tr '\\0' x; echo; echo end"
    end = await ended(step(context, tmp_path, "sh", "-c", script))
    text = end.value["stdout"]
    assert text.startswith("begin\nx") and text.endswith("x\nend\n") and "bytes left out" in text
    assert len(text) < OUTPUT_LIMIT_BYTES + 100


async def test_bytes_that_are_no_text_are_replaced(context: WorkflowContext, tmp_path: Path) -> None:
    end = await ended(step(context, tmp_path, "printf", "a\\377\\000\\033[1mb"))
    assert end.value["stdout"] == "a\ufffd\0\x1b[1mb"


async def test_the_environment_is_that_of_an_executor_and_the_named_variables(tmp_path: Path) -> None:
    inherited = {"PATH": os.environ["PATH"], "TOKEN": "secret", "WANTED": "w", "LC_ALL": "C"}
    async with CoordinatorApi("http://127.0.0.1:9") as api:
        context = new_context(api, inherited)
        end = await ended(step(context, tmp_path, "env", env=("WANTED", "NOT_SET")))
    variables = dict(line.split("=", 1) for line in end.value["stdout"].splitlines())
    assert variables["WANTED"] == "w" and variables["AGENT_SESSION_ID"] == PARENT.session_id
    assert not {"TOKEN", "NOT_SET"} & variables.keys()


async def test_stdout_is_the_data_if_there_is_a_schema(context: WorkflowContext, tmp_path: Path) -> None:
    end = await ended(step(context, tmp_path, "echo", '{"a": [1, "\\ud800"]}', schema={"type": "object"}))
    assert end.ending == "done" and end.value["data"] == {"a": [1, "\ufffd"]}


@pytest.mark.parametrize("text", ["", "no JSON", '{"a": ', "[" * 100_000])
async def test_stdout_that_is_no_json_is_an_error(context: WorkflowContext, tmp_path: Path, text: str) -> None:
    value = await failed(step(context, tmp_path, "cat", stdin=text, schema={}))
    assert value["exit_code"] == 0 and "data" not in value
    assert value["error"].startswith("its stdout is not the JSON that the schema of the state requires: ")


async def test_json_that_is_too_long_is_an_error(context: WorkflowContext, tmp_path: Path) -> None:
    script = f"printf '\"'; head -c {OUTPUT_LIMIT_BYTES} /dev/zero | tr '\\0' x; printf '\"'"
    value = await failed(step(context, tmp_path, "sh", "-c", script, schema={}))
    assert value["error"] == "its stdout is too long for `data`: 4,194,306 bytes"


async def test_a_stop_ends_the_command_with_its_descendants(
    context: WorkflowContext, tmp_path: Path, signs: Fifo
) -> None:
    each = step(context, tmp_path, "sh", "-c", f"echo so far; sleep 1000 & echo $! > {signs.path}; wait")
    performing = asyncio.create_task(each.perform())
    process = await signs.pid()
    assert await each.stop() == "SIGTERM"
    await gone(process)
    end = await asyncio.wait_for(performing, PATIENCE_S)
    assert end.ending == "timeout" and end.value["exit_code"] == 124 and end.value["stdout"] == "so far\n"
    assert end.value["error"].startswith("the command did not end within its time limit")
    await each.aclose()


async def test_a_command_that_ignores_the_stop_is_killed(context: WorkflowContext, tmp_path: Path, signs: Fifo) -> None:
    each = step(context, tmp_path, "sh", "-c", f"trap '' TERM; echo $$ > {signs.path}; while :; do sleep 1000; done")
    performing = asyncio.create_task(each.perform())
    process = await signs.pid()
    performing.cancel()  # ends nothing
    await asyncio.wait([performing])
    assert each.process is not None and each.process.pid == process
    await each.aclose()
    await gone(process)


async def test_a_step_that_is_stopped_before_its_begin_starts_nothing(context: WorkflowContext, tmp_path: Path) -> None:
    each = step(context, tmp_path, "touch", "file")
    assert await each.stop() == "shutdown"
    await failed(each)
    assert names(tmp_path) == []


async def test_a_command_has_the_limits_of_executors(context: WorkflowContext, tmp_path: Path) -> None:
    limited = new_context(context.api, launch_policy=LaunchPolicy(ResourceLimits(output_bytes=1_000)))
    value = await failed(step(limited, tmp_path, "yes"))
    assert value["error"] == "output limit of 1,000 bytes exceeded"


@as_root
async def test_a_command_has_the_rights_of_the_user_of_executors(context: WorkflowContext) -> None:
    user = find_user("nobody")
    with open_place() as place:
        place.chmod(0o777)
        other = new_context(context.api, launch_policy=LaunchPolicy(user=user))
        end = await ended(step(other, place, "sh", "-c", "id -u; cat; touch mine", stdin="read"))
        assert end.value["stdout"] == f"{user.uid}\nread"
        assert (place / "mine").stat().st_uid == user.uid
