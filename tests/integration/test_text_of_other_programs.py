"""JSON and text of other programs that is not UTF-8 or has a byte order mark, at every boundary of the runner."""

import codecs
import json
import os
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from fsm_runner.cli.parameters import parse_parameters
from fsm_runner.config.paths import HOME_VARIABLE
from fsm_runner.config.profiles import load_profile
from fsm_runner.config.settings import read_dotenv
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_server.agents import load_agents
from fsm_runner.coordinator_server.scripts import load_scripts
from fsm_runner.errors import UsageError
from fsm_runner.executors.procedural import result_data
from fsm_runner.process.child.capture import BoundedCapture
from fsm_runner.process.child.child import Exit
from fsm_runner.protocol import wire
from fsm_runner.reporting import messages
from fsm_runner.scripts.store import use_script
from tests.support.embedded import embedded_coordinator
from tests.support.executor_program import RecordingGateway, executor, invocation, python_executor
from tests.support.gateway import RecordingCoordinator, bench, event_of
from tests.support.mcp import mcp_server
from tests.support.serving import serving
from tests.support.specs import check_file

HALF = "\ud83d"
"""Half of a pair, as Python's `json` reads and writes it."""
REPLACED = "\ufffd"
SPECS = Path(__file__).parents[2] / "specs"


def as_python_writes_it(value: Any) -> bytes:
    return json.dumps(value).encode()


async def test_messages_of_an_executor_through_the_gateway() -> None:
    async with bench() as b:
        bind = {"session_id": b.own, "executor_session_id": HALF, "project_dir": f"/caf{HALF}"}
        event = event_of(b.own, content=[{"type": "text", "text": f"a{HALF}"}])
        metadata = {"session_id": b.own, "executor_session_id": f"b{HALF}"}
        start = {"type": "start_session", "parameters": {"prompt": HALF}}
        for method, path, body in (
            ("POST", "/bind", bind),
            ("POST", "/events", event),
            ("PATCH", "/metadata", metadata),
            ("POST", "/runs", start),
        ):
            answer = await b.http.request(method, path, content=as_python_writes_it(body))
            assert answer.is_success, (path, answer.text)
        latin_1 = event_of(b.own, content=[{"type": "text", "text": "caf\xe9"}])
        answer = await b.http.post("/events", content=json.dumps(latin_1, ensure_ascii=False).encode("latin-1"))
        assert answer.is_success, answer.text
        texts = [each["content"][0]["text"] for each in await b.events(b.own)]
        assert texts == [f"a{REPLACED}", f"caf{REPLACED}"]
        session = await b.session(b.own)
        assert (session["executor_session_id"], session["project_dir"]) == (f"b{REPLACED}", f"/caf{REPLACED}")
        runs = (await b.coordinator.http.get("/runs")).json()["runs"]
        assert [run["parameters"] for run in runs if run["parent_session_id"] == b.own] == [{"prompt": REPLACED}]


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"{", "The body is not valid JSON: the JSON is incomplete"), (b" ", "The body is not valid JSON: it is empty")],
)
async def test_an_invalid_json_body_gets_the_reason(content: bytes, said: str) -> None:
    async with bench() as b:
        answer = await b.http.post("/events", content=content)
        assert answer.status_code == 400
        assert said in answer.json()["detail"]


async def test_requests_to_the_embedded_coordinator() -> None:
    async with embedded_coordinator() as coordinator:
        await coordinator.register()
        body = {"type": "start_session", "agent_name": "echo", "parameters": {"message": HALF}}
        created = (await coordinator.http.post("/runs", content=as_python_writes_it(body))).json()
        run = (await coordinator.http.get(f"/runs/{created['run_id']}")).json()
        assert run["parameters"] == {"message": REPLACED}
        event = event_of(created["session_id"], content=[{"type": "text", "text": HALF}])
        path = f"/sessions/{created['session_id']}/events"
        assert (await coordinator.http.post(path, content=as_python_writes_it(event))).status_code == 201
        assert (await coordinator.http.get(path)).json()["events"][0]["content"][0]["text"] == REPLACED


async def test_requests_to_the_mcp_server() -> None:
    arguments = {"agent_name": "echo", "parameters": {"message": HALF}, "mode": "async_poll"}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    async with (
        embedded_coordinator() as coordinator,
        mcp_server(coordinator.server.url) as server,
        httpx.AsyncClient(trust_env=False) as http,
    ):
        await coordinator.register()
        body = as_python_writes_it({**call, "params": {"name": "start_agent_session", "arguments": arguments}})
        answer = await http.post(server.url, content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        runs = (await coordinator.http.get("/runs")).json()["runs"]
        assert [run["parameters"] for run in runs] == [{"message": REPLACED}]


async def test_responses_of_a_coordinator_and_reports_to_it() -> None:
    recorder = RecordingCoordinator()
    run = {"run_id": "run_1", "session_id": "ses_1", "parameters": {"message": HALF}}
    events = [{"event_type": "result", "timestamp": "2026-01-01T00:00:00Z", "result_text": HALF}]

    async def answering(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        body = as_python_writes_it({"events": events} if scope["path"].endswith("/events") else {"run": run})
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})

    async with serving(answering) as url, CoordinatorApi(url) as api:
        claimed = (await api.poll("rnr_1", 1)).run
        assert isinstance(claimed, wire.Run)
        assert claimed.parameters == {"message": REPLACED}
        assert [event.result_text for event in await api.session_events("ses_1")] == [REPLACED]
    async with serving(recorder) as url, CoordinatorApi(url) as api:
        report = messages.failed("run_1", "rnr_1", f"there is no file caf{HALF}")
        await api.deliver(report.path, report.body)
        assert report.ending is not None
        assert report.ending.error == f"there is no file caf{REPLACED}"  # type: ignore[union-attr]
        assert msgspec.json.decode(recorder.arrived[0].body)["error"] == f"there is no file caf{REPLACED}"


async def test_messages_of_an_executor_with_the_sdk(tmp_path: Path) -> None:
    body = r"""
async def main(session):
    async for turn in session.turns():
        await session.message("user", turn.prompt)
        await session.tool("ls", {"\ud83d": 1}, ["caf\udce9.txt"])
        await turn.complete("\ud83d")
"""
    async with RecordingGateway().serving() as gateway:
        async with executor(python_executor(tmp_path / "test", body), gateway) as process:
            await process.send("\ufeff" + json.dumps(invocation() | {"parameters": {"prompt": f"p{HALF}"}}))
            assert await process.result() == REPLACED
            process.close_stdin()
            assert await process.ended() == (0, "")
        message, tool, result = gateway.bodies("/events")
        assert message["content"][0]["text"] == f"p{REPLACED}"
        assert (tool["tool_input"], tool["tool_output"]) == ({REPLACED: 1}, [f"caf{REPLACED}.txt"])
        assert result["result_text"] == REPLACED


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
@pytest.mark.parametrize("name", [rb"caf\udce9.txt", b"caf\xe9.txt"])
def test_the_output_of_a_command(mark: bytes, name: bytes) -> None:
    stdout = BoundedCapture(1000)
    stdout.add(mark + b'{"file": "%s"}' % name + b"\n")
    ended = Exit(code=0, signal=None, stdout=stdout, stderr=BoundedCapture(0))
    assert result_data(0, ended) == {"file": f"caf{REPLACED}.txt"}


def test_a_parameter_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / os.fsdecode(b"caf\xe9")
    file.write_bytes(codecs.BOM_UTF8 + b'{"b": "\\ud83d"}')
    schema = {"properties": {"options": {"type": "object"}}}
    words = [r'a:="\ud83d"', f"options=@{file}", f"text=@{file}"]
    assert parse_parameters(words, schema) == {
        "a": REPLACED,
        "options": {"b": REPLACED},
        "text": r'{"b": "\ud83d"}',
    }
    with pytest.raises(UsageError, match="'a:=': not JSON: it is empty"):
        parse_parameters(["a:="], None)
    with pytest.raises(UsageError, match="the JSON is incomplete"):
        parse_parameters(["a:={"], None)


def test_files_may_begin_with_a_byte_order_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: str, content: Any) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        file.write_bytes(codecs.BOM_UTF8 + text.encode())
        return file

    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    command = "executors/mine/mine"
    write("profiles/p.json", {"type": "autonomous", "command": command, "agents_dir": "agents", "config": {"a": 1}})
    write("agents/a.json", {"name": "a"})
    write("executors/mine/executor.json", {"env": ["MINE"]})
    write(command, "")
    profile = load_profile("p")
    assert [agent.name for agent in profile.agents] == ["a"]
    assert (profile.unknown_keys, profile.variables) == ((), ("MINE",))

    write("scripts/tidy/script.json", {"script_file": "run.sh"})
    (tmp_path / "scripts/tidy/run.sh").write_text("#!/bin/sh\n")
    scripts = load_scripts(tmp_path / "scripts")
    assert [agent.name for agent in load_agents(tmp_path / "agents", scripts)] == ["a"]
    script = use_script(tmp_path, "tidy")
    assert script.command == [str((tmp_path / "scripts/tidy/run.sh").resolve())]
    script.close()

    assert read_dotenv(write(".env", "PROFILE=p\n")) == {"PROFILE": "p"}
    assert check_file(write("run.toml", (SPECS / "run.toml").read_text())) == ()


def test_an_empty_file_is_reported_as_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/p.json").touch()
    with pytest.raises(UsageError, match=r"p\.json: it is empty"):
        load_profile("p")
