"""Executors that use the SDK, as processes: their messages, errors and ends."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.responses import JSONResponse

from fsm_runner.util.error_text import headline
from tests.support.executor_program import (
    SESSION_ID,
    SHUTDOWN,
    RecordingGateway,
    executor,
    invocation,
    python_executor,
    turn,
)

UPPER = """
async def main(session):
    async for turn in session.turns():
        await turn.complete(turn.prompt.upper())
"""
WAIT_FOREVER = """
import asyncio
async def main(session):
    async for turn in session.turns():
        try:
            await session.event({"event_type": "begun"})
            await asyncio.Event().wait()
        finally:
            await session.event({"event_type": "cleaned up"})
"""


async def ended_with(tmp_path: Path, body: str, *messages: Any, answers: Any = None) -> tuple[int, str]:
    """Run an executor with an invocation and these messages as input, and return its exit code and stderr."""
    async with RecordingGateway().serving() as gateway:
        gateway.answers.update(answers or {})
        async with executor(python_executor(tmp_path / "test", body), gateway) as process:
            await process.send(invocation(), *messages)
            process.close_stdin()
            return await process.ended()


async def test_a_session_can_send_every_kind_of_message(tmp_path: Path) -> None:
    body = """
async def main(session):
    assert session.invocation.agent_blueprint == {"name": "a"} and not session.resumed
    async for turn in session.turns():
        await session.bind("mine")
        await session.message("user", turn.prompt)
        await session.tool("grep", {"for": "x"}, [1], error="none")
        await session.event({"event_type": "pre_tool", "tool_name": "t", "session_id": "other"})
        await session.metadata(last_resumed_at=session.now())
        status, answer = await session.request("GET", "/sessions/1")
        await turn.complete(data={"status": status, "answer": answer})
"""
    async with RecordingGateway().serving() as gateway:
        gateway.answers["/sessions/1"] = JSONResponse({"session": {}})
        async with executor(python_executor(tmp_path / "test", body), gateway) as process:
            await process.send(invocation(agent_blueprint={"name": "a"}))
            data = {"status": 200, "answer": {"session": {}}}
            assert json.loads(await process.result()) == data
            process.close_stdin()
            assert await process.ended() == (0, "")
        assert gateway.bodies("/bind") == [
            {"session_id": SESSION_ID, "executor_session_id": "mine", "project_dir": "/project"}
        ]
        assert gateway.event_types() == ["message", "post_tool", "pre_tool", "result"]
        message, tool, pre_tool, result = ({**event, "timestamp": ""} for event in gateway.bodies("/events"))
        ours = {"session_id": SESSION_ID, "timestamp": ""}
        content = [{"type": "text", "text": "hello"}]
        assert message == {"event_type": "message", "role": "user", "content": content, **ours}
        used = {"tool_name": "grep", "tool_input": {"for": "x"}, "tool_output": [1], "error": "none"}
        assert tool == {"event_type": "post_tool", **used, **ours}
        assert pre_tool == {"event_type": "pre_tool", "tool_name": "t", **ours}
        assert result == {"event_type": "result", "result_data": data, **ours}
        (metadata,) = gateway.bodies("/metadata")
        assert metadata.keys() == {"session_id", "last_resumed_at"}


async def test_an_incomplete_turn_is_an_error(tmp_path: Path) -> None:
    for body in (
        "async def main(session): pass",
        "async def main(session):\n    async for turn in session.turns(): pass",
        "async def main(session):\n    async for turn in session.turns(): break",
    ):
        code, stderr = await ended_with(tmp_path, body)
        assert code == 1
        assert stderr.startswith("Error: the executor left a turn without completing it")


async def test_an_exception_is_the_error_after_its_traceback(tmp_path: Path) -> None:
    body = 'async def main(session):\n    print("looked", end="")\n    raise ValueError("no such file")'
    code, stderr = await ended_with(tmp_path, body)
    lines = stderr.splitlines()
    assert (code, lines[-1]) == (1, "Error: ValueError: no such file")
    assert lines[0] == "lookedTraceback (most recent call last):"
    assert [line.rpartition(", in ")[2] for line in lines if line.startswith("  File")] == ["main"]


async def test_a_traceback_has_only_the_frames_of_the_executors_code(tmp_path: Path) -> None:
    """This applies to causes, and to exceptions that the SDK or asyncio raises."""
    body = """
import asyncio

async def half():
    raise KeyError("first")

async def main(session):
    try:
        async with asyncio.timeout(60):
            await asyncio.gather(half())
    except KeyError:
        await session.message("system", "said it")
"""
    code, stderr = await ended_with(tmp_path, body)
    frames = [line.rpartition(", in ")[2] for line in stderr.splitlines() if line.startswith("  File")]
    assert (code, frames) == (1, ["main", "half", "main"])
    assert stderr.endswith("\nError: ValueError: a message's role is one of user, assistant, not 'system'\n")


async def test_a_group_of_exceptions_is_summarised_in_the_last_line(tmp_path: Path) -> None:
    body = """
import asyncio

async def fail(text):
    raise ValueError(text)

async def main(session):
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(fail("one"))
        tasks.create_task(fail("two"))
"""
    code, stderr = await ended_with(tmp_path, body)
    assert (code, stderr.count("fsm_executor"), stderr.count("taskgroups.py")) == (1, 0, 0)
    said = "Error: ExceptionGroup: unhandled errors in a TaskGroup (2 sub-exceptions): ValueError: one; ValueError: two"
    assert stderr.splitlines()[-1] == said
    assert headline(stderr) == said


async def test_a_main_that_is_not_async_is_an_error(tmp_path: Path) -> None:
    code, stderr = await ended_with(tmp_path, "def main(session): pass")
    assert (code, stderr) == (1, "Error: the function given to fsm_executor.run must be `async def`\n")


async def test_an_executor_fails_with_a_reason_of_its_own(tmp_path: Path) -> None:
    body = 'async def main(session):\n    raise fsm_executor.ExecutorError("no credit left")'
    assert await ended_with(tmp_path, body) == (1, "Error: no credit left\n")


async def test_a_rejection_by_the_gateway_is_the_error(tmp_path: Path) -> None:
    refusal = JSONResponse({"detail": "the coordinator is away"}, status_code=502)
    code, stderr = await ended_with(tmp_path, UPPER, answers={"/events": refusal})
    assert (code, stderr) == (1, "Error: POST /events was answered with 502: the coordinator is away\n")


async def test_a_turn_is_not_complete_before_its_result_is_accepted(tmp_path: Path) -> None:
    async with RecordingGateway().serving() as gateway:
        gateway.held.add("/events")
        async with executor(python_executor(tmp_path / "test", UPPER), gateway) as process:
            await process.send(invocation())
            await gateway.called("/events")
            process.process.terminate()
            assert await process.ended() == (128 + signal.SIGTERM, "")
            assert process.process.stdout is not None
            assert await process.process.stdout.read() == b""


@pytest.mark.parametrize("misuse", ['"a", data={}', "", "None"])
async def test_a_result_has_either_text_or_data(tmp_path: Path, misuse: str) -> None:
    body = f"async def main(session):\n    async for turn in session.turns():\n        await turn.complete({misuse})"
    code, stderr = await ended_with(tmp_path, body)
    assert (code, stderr.splitlines()[-1]) == (1, "Error: TypeError: a result has either text or data")


@pytest.mark.parametrize("misuse", ["5", 'data="text"', "data=[]"])
async def test_a_result_s_text_is_text_and_its_data_an_object(tmp_path: Path, misuse: str) -> None:
    body = f"async def main(session):\n    async for turn in session.turns():\n        await turn.complete({misuse})"
    code, stderr = await ended_with(tmp_path, body)
    assert (code, stderr.splitlines()[-1]) == (1, "Error: TypeError: a result's text is a str, and its data a dict")


async def test_a_turn_is_completed_once(tmp_path: Path) -> None:
    body = UPPER + '        await turn.complete("again")'
    code, stderr = await ended_with(tmp_path, body)
    assert (code, stderr.splitlines()[-1]) == (1, "Error: RuntimeError: the turn is already completed")


async def test_sigterm_cancels_the_turn_and_permits_a_cleanup(tmp_path: Path) -> None:
    async with RecordingGateway().serving() as gateway:
        async with executor(python_executor(tmp_path / "test", WAIT_FOREVER), gateway) as process:
            await process.send(invocation())
            await gateway.called("/events")
            process.process.terminate()
            assert await process.ended() == (128 + signal.SIGTERM, "")
        assert gateway.event_types() == ["begun", "cleaned up"]


async def test_sigterm_ends_an_idle_executor(tmp_path: Path) -> None:
    async with (
        RecordingGateway().serving() as gateway,
        executor(python_executor(tmp_path / "test", UPPER), gateway) as process,
    ):
        await process.send(invocation())
        assert await process.result() == "HELLO"
        process.process.terminate()
        assert await process.ended() == (128 + signal.SIGTERM, "")


async def test_shutdown_cancels_a_turn_that_does_not_end(tmp_path: Path) -> None:
    async with RecordingGateway().serving() as gateway:
        async with executor(python_executor(tmp_path / "test", WAIT_FOREVER), gateway) as process:
            await process.send(invocation(), SHUTDOWN)
            assert await process.ended() == (0, "")
        assert gateway.event_types() == ["begun", "cleaned up"]


async def test_turns_before_the_shutdown_are_completed(tmp_path: Path) -> None:
    async with (
        RecordingGateway().serving() as gateway,
        executor(python_executor(tmp_path / "test", UPPER), gateway) as process,
    ):
        await process.send(invocation(), "noise", turn(prompt="b"), "[]", turn(a=1), SHUTDOWN)
        assert [await process.result() for _ in range(3)] == ["HELLO", "B", '{"A": 1}']
        assert await process.ended() == (0, "")


async def test_many_turns_at_once_are_all_completed(tmp_path: Path) -> None:
    async with (
        RecordingGateway().serving() as gateway,
        executor(python_executor(tmp_path / "test", UPPER), gateway) as process,
    ):
        await process.send(invocation(), *(turn(prompt=f"t{number}") for number in range(50)))
        process.close_stdin()
        assert [await process.result() for _ in range(51)] == ["HELLO", *(f"T{number}" for number in range(50))]
        assert await process.ended() == (0, "")


async def test_a_turn_without_parameters_is_an_error(tmp_path: Path) -> None:
    code, stderr = await ended_with(tmp_path, UPPER, {"type": "turn"})
    assert (code, stderr) == (1, "Error: a turn must have parameters (an object)\n")


async def test_other_output_does_not_mix_with_the_protocol(tmp_path: Path) -> None:
    body = """
import subprocess, sys
async def main(session):
    async for turn in session.turns():
        print("a print", end="")
        subprocess.run([sys.executable, "-c", "import sys; print(sys.stdin.read() + 'a child')"])
        await turn.complete("done")
"""
    async with (
        RecordingGateway().serving() as gateway,
        executor(python_executor(tmp_path / "test", body), gateway) as process,
    ):
        await process.send(invocation(), turn())
        assert [await process.message() for _ in range(2)] == [{"type": "turn_complete", "result": "done"}] * 2
        process.close_stdin()
        code, stderr = await process.ended()
        assert (code, stderr.count("a print"), stderr.count("a child\n")) == (0, 2, 2)


async def test_standard_input_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "input").write_text(json.dumps(invocation(), indent=2))
    async with RecordingGateway().serving() as gateway:
        descriptor = os.open(tmp_path / "input", os.O_RDONLY)
        try:
            async with executor(python_executor(tmp_path / "test", UPPER), gateway, stdin=descriptor) as process:
                assert await process.result() == "HELLO"
                assert await process.ended() == (0, "")
        finally:
            os.close(descriptor)


@pytest.mark.parametrize("url", ["", "nonsense"])
async def test_a_missing_or_invalid_gateway_url_is_an_error(tmp_path: Path, url: str) -> None:
    command = python_executor(tmp_path / "test", UPPER)
    async with executor(command, AGENT_ORCHESTRATOR_API_URL=url) as process:
        await process.send(invocation())
        code, stderr = await process.ended()
        assert code == 1
        assert stderr.startswith("Error: AGENT_ORCHESTRATOR_API_URL")


async def test_bad_input_and_queries_do_not_load_asyncio(tmp_path: Path) -> None:
    """Loading asyncio would double the response time."""
    look = 'import sys, atexit\natexit.register(lambda: print("asyncio" in sys.modules, file=sys.stderr))'
    command = [*python_executor(tmp_path / "test", f"{look}\n{UPPER}")]
    for arguments, stdin in ((["--version"], ""), (["--schema"], ""), ([], "{}")):
        async with executor([*command, *arguments]) as process:
            await process.send(stdin)
            assert (await process.ended())[1].splitlines()[-1] == "False"


async def test_the_example_in_the_docstring_works(tmp_path: Path) -> None:
    import fsm_executor

    example = (fsm_executor.__doc__ or "").split("\n\n    ", 1)[1].split("\n\nThe runner")[0]
    path = tmp_path / "example"
    path.write_text(example.replace("\n    ", "\n"))
    async with (
        RecordingGateway().serving() as gateway,
        executor([sys.executable, path], gateway) as process,
    ):
        await process.send(invocation())
        assert await process.result() == "HELLO"
        assert gateway.results() == ["HELLO"]
