"""A process that is stopped by SIGSTOP, as `docker pause` stops it, while an answer of the coordinator arrives."""

import asyncio
import os
import signal
import sys
import time

import httpx
import pytest

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_server.server import CoordinatorServer
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.util import event_loop
from tests.support.polling import REGISTRATION
from tests.support.serving import serving_raw

PROGRAM = """
import asyncio, os, signal, sys, threading
from fsm_runner.util import event_loop
from fsm_runner.coordinator_client.errors import CoordinatorError
from fsm_runner.coordinator_client.transport import Transport

LIMIT_S = 0.8

async def called(transport, path):
    try:
        return (await transport.call("GET", path, timeout_s=LIMIT_S)).text
    except CoordinatorError as fault:
        return str(fault)

async def main():
    transport = Transport(sys.argv[1], None, 2)
    calls = [asyncio.create_task(called(transport, path)) for path in ("/answered", "/silent")]
    # From a thread: the loop is in its selector when the process stops.
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGSTOP)).start()
    print(await asyncio.gather(*calls))
    await transport.aclose()

event_loop.run(main())
"""
STOPPED_S = 0.8 + 0.5 + 0.1
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\nthe whole answer"


async def test_an_answer_that_arrives_during_a_stop_is_not_discarded() -> None:
    stopped = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        if request.startswith(b"GET /answered"):
            await stopped.wait()
            writer.write(ANSWER)
            await writer.drain()
        await reader.read()
        writer.close()

    async with serving_raw(serve) as url:
        program = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PROGRAM, url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        await asyncio.to_thread(_wait_until_stopped, program.pid)
        stopped.set()
        await asyncio.sleep(STOPPED_S)
        program.send_signal(signal.SIGCONT)
        printed = (await program.communicate())[0].decode()
    assert "['the whole answer', 'GET " in printed
    assert "/silent: no answer within the time limit (ReadTimeout)'" in printed


def _wait_until_stopped(pid: int) -> None:
    # WNOWAIT: a process that ended instead is left for asyncio.
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)


def test_a_coordinator_that_was_stopped_holds_no_runner_for_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their heartbeats may wait in its sockets."""
    monkeypatch.setattr(event_loop, "STOP_THRESHOLD_S", 0.1)
    timings = Timings(stale_after_s=0.4, removed_after_s=0.6, sweep_interval_s=0.05)

    async def main() -> list[str]:
        async with CoordinatorServer(port=0, timings=timings) as server, CoordinatorApi(server.url) as api:
            registered = await api.register(REGISTRATION)
            time.sleep(1.0)  # noqa: ASYNC251 - as if the process were stopped
            await api.heartbeat(registered.runner_id)
            async with httpx.AsyncClient(base_url=server.url, trust_env=False) as http:
                return [runner["status"] for runner in (await http.get("/runners")).json()["runners"]]

    assert event_loop.run(main()) == ["online"]
