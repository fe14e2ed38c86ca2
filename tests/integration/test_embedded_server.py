"""The coordinator as a server: port, stop, database and command."""

import asyncio
import os
import signal
import socket
import sys
import threading
from pathlib import Path
from time import monotonic

import httpx
import pytest

from fsm_runner.cli.coordinator import serve
from fsm_runner.coordinator_server.http import requests
from fsm_runner.coordinator_server.server import CoordinatorServer
from fsm_runner.errors import UsageError
from tests.support.embedded import embedded_coordinator
from tests.support.watch import AT_ONCE_S


async def test_a_port_in_use_is_reported() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"port {port} .*in use"):
            await CoordinatorServer(port=port).start()


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("no such host", 0), ("203.0.113.1", 0)])
async def test_an_address_that_cannot_be_listened_on_is_a_usage_error(host: str, port: int) -> None:
    with pytest.raises(UsageError):
        await CoordinatorServer(host=host, port=port).start()


async def test_a_stop_ends_held_polls_and_streams_at_once_and_leaves_nothing() -> None:
    tasks_before, threads_before = asyncio.all_tasks(), set(threading.enumerate())
    async with embedded_coordinator() as coordinator:
        server = coordinator.server
        poll = await coordinator.held_poll(await coordinator.register())
        async with coordinator.http.stream("GET", "/sse/sessions") as stream:
            lines = stream.aiter_lines()
            await anext(lines)
            stopped_at = monotonic()
            await server.stop()
            assert monotonic() - stopped_at < AT_ONCE_S
            assert [line async for line in lines][-1] == ""
        assert (await poll).status_code == 204
        with pytest.raises(httpx.ConnectError):
            await coordinator.http.get("/health")
    assert asyncio.all_tasks() == tasks_before
    assert set(threading.enumerate()) == threads_before


async def test_a_client_in_the_middle_of_a_request_does_not_delay_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "BODY_LIMIT_S", 600.0)
    async with embedded_coordinator() as coordinator:
        host, port = coordinator.server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /runs HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
        await writer.drain()
        await coordinator.http.get("/health")
        stopped_at = monotonic()
        await coordinator.server.stop()
        assert monotonic() - stopped_at < AT_ONCE_S
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        writer.close()


async def test_the_server_leaves_signals_alone() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    async with embedded_coordinator():
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


async def test_a_restart_keeps_the_runs_and_forgets_the_runners(tmp_path: Path) -> None:
    database = tmp_path / "coordinator.db"
    async with embedded_coordinator(database=database) as coordinator:
        runner_id = await coordinator.register()
        claimed, stopping, waiting = [await coordinator.submit(str(number)) for number in range(3)]
        for _ in range(2):
            await coordinator.claim(runner_id)
        await coordinator.http.post(f"/runs/{stopping['run_id']}/stop")
    async with embedded_coordinator(database=database) as coordinator:
        assert (await coordinator.poll(runner_id)).status_code == 401
        assert (await coordinator.report(claimed, "started", runner_id)).status_code == 401
        assert (await coordinator.http.delete(f"/runners/{runner_id}?self=true")).status_code == 404
        assert await coordinator.register() == runner_id
        assert (await coordinator.poll(runner_id)).json() == {"stop_sessions": [stopping["session_id"]]}
        assert (await coordinator.claim(runner_id))["run_id"] == waiting["run_id"]
        assert (await coordinator.report(claimed, "completed", runner_id)).status_code == 200
        assert await coordinator.run_status(claimed) == "completed"


async def test_two_coordinators_do_not_share_a_database(tmp_path: Path) -> None:
    database = tmp_path / "coordinator.db"
    async with embedded_coordinator(database=database):
        with pytest.raises(UsageError, match=r"coordinator\.db.* in use"):
            await CoordinatorServer(port=0, database=database).start()


@pytest.mark.parametrize("content", [b"no database at all, but long enough to be looked at" * 20, None])
async def test_a_file_that_is_not_a_database_is_named(tmp_path: Path, content: bytes | None) -> None:
    database = tmp_path / "folder" if content is None else tmp_path / "text"
    if content is None:
        database.mkdir()
    else:
        database.write_bytes(content)
    with pytest.raises(UsageError, match=str(database)):
        await CoordinatorServer(port=0, database=database).start()


COMMAND = "from fsm_runner.cli.coordinator import serve; serve(port='0')"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_command_prints_its_url_and_ends_cleanly_on_a_signal(number: signal.Signals) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", COMMAND, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=os.environ
    )
    assert process.stderr is not None
    line = (await process.stderr.readline()).decode()
    assert "lost at the end" in line
    assert "fsm-runner submit" in line
    async with httpx.AsyncClient() as http:
        url = line.split(",")[0].removeprefix("Coordinator at ")
        assert (await http.get(f"{url}/health")).status_code == 200
        process.send_signal(number)
        stdout, stderr = await process.communicate()
    assert (process.returncode, stdout, stderr) == (0, b"", b"")


@pytest.mark.parametrize("port", ["http", "-1", "70000", "8765 "])
def test_a_wrong_port_of_the_command_is_a_usage_error(port: str) -> None:
    with pytest.raises(UsageError, match="port"):
        serve(port=port)


async def test_the_command_is_imported_without_the_web_stack() -> None:
    check = "import sys, fsm_runner.cli.coordinator; assert not {'uvicorn', 'starlette', 'sqlite3'} & set(sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", check)
    assert await process.wait() == 0
