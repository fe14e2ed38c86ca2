"""Starts executors as processes, with a gateway that records their calls."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.deployed import CHECKS
from tests.support.program import REPOSITORY
from tests.support.serving import serving
from tests.support.watch import PATIENCE_S, Watch

SDK = REPOSITORY / "fsm_runner" / "sdk"
ECHO = REPOSITORY / "executors" / "echo" / "ao-echo-exec"

SESSION_ID = "ses_1"
LINE_LIMIT_BYTES = 64 * 1024 * 1024


def invocation(**fields: Any) -> dict[str, Any]:
    """Return the invocation of a start, or of a resume with `mode="resume"`."""
    whole = {
        "schema_version": "2.2",
        "mode": "start",
        "session_id": SESSION_ID,
        "parameters": {"prompt": "hello"},
        "project_dir": "/project",
        **fields,
    }
    if whole["mode"] == "resume":
        del whole["project_dir"]
    return whole


def turn(**parameters: Any) -> dict[str, Any]:
    return {"type": "turn", "parameters": parameters}


SHUTDOWN = {"type": "shutdown"}


class RecordingGateway:
    """Accepts and records every call. `url` has a path, as the URL of a runner's gateway has."""

    def __init__(self) -> None:
        self.url = ""
        self.calls: list[tuple[str, str, Any]] = []
        """Method, path and body of each call."""
        self.clients: set[tuple[str, int]] = set()
        """The client address of each connection."""
        self.answers: dict[str, Response] = {}
        """Responses by path. The default is 201."""
        self.held: set[str] = set()
        """Paths whose calls get no response."""
        self._released = asyncio.Event()
        self._watch = Watch(lambda: repr(self.calls))

    async def called(self, path: str, count: int = 1) -> None:
        """Wait until there were `count` calls of this path."""
        await self._watch.until(lambda: len(self.bodies(path)) >= count, f"{count} calls of {path}")

    def bodies(self, path: str) -> list[Any]:
        return [body for _, called, body in self.calls if called == path]

    def event_types(self) -> list[str]:
        """Return the types of the events in the order of their timestamps."""
        return [event["event_type"] for event in sorted(self.bodies("/events"), key=lambda each: each["timestamp"])]

    def results(self) -> list[Any]:
        """Return the text or data of each result event."""
        results = [event for event in self.bodies("/events") if event["event_type"] == "result"]
        return [event.get("result_text", event.get("result_data")) for event in results]

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["RecordingGateway"]:
        app = Starlette(
            routes=[Route("/session/{path:path}", self._answer, methods=["GET", "POST", "PATCH", "DELETE"])]
        )
        async with serving(app) as url:
            self.url = f"{url}/session"
            try:
                yield self
            finally:
                self._released.set()

    async def _answer(self, request: Request) -> Response:
        assert request.client is not None
        self.clients.add((request.client.host, request.client.port))
        path = f"/{request.path_params['path']}"
        content = await request.body()
        CHECKS.check_executor(request.method, path, content)
        self.calls.append((request.method, path, json.loads(content) if content else None))
        self._watch.changed()
        if path in self.held:
            await self._released.wait()
        return self.answers.get(path, JSONResponse({"ok": True}, status_code=201))


class ExecutorProcess:
    def __init__(self, process: Process) -> None:
        self.process = process

    async def send(self, *messages: dict[str, Any] | str) -> None:
        """Write each message as one line."""
        assert self.process.stdin is not None
        for message in messages:
            text = message if isinstance(message, str) else json.dumps(message)
            self.process.stdin.write(f"{text}\n".encode())
        await self.process.stdin.drain()

    def close_stdin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()

    async def message(self) -> Any:
        """Return the next line of stdout, decoded. Raises AssertionError with stderr if the process ends instead."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            line = await self.process.stdout.readline()
        if not line:
            code, stderr = await self.ended()
            raise AssertionError(f"no more on stdout; exit code {code}\n{stderr}")
        return json.loads(line)

    async def result(self) -> str:
        """Return the result of the next `turn_complete` line."""
        message = await self.message()
        assert message["type"] == "turn_complete", message
        result = message["result"]
        assert isinstance(result, str)
        return result

    async def ended(self) -> tuple[int, str]:
        """Wait for the exit, and return exit code and stderr. Does not close stdin."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            stderr = (await self.process.stderr.read()).decode()
            return await self.process.wait(), stderr


def executor_env(gateway_url: str | None, **variables: str) -> dict[str, str]:
    url = {} if gateway_url is None else {"AGENT_ORCHESTRATOR_API_URL": gateway_url}
    own = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(SDK)}
    return {**own, "AGENT_SESSION_ID": SESSION_ID, **url, **variables}


@asynccontextmanager
async def executor(
    command: Sequence[str | Path], gateway: RecordingGateway | None = None, stdin: int = PIPE, **variables: str
) -> AsyncIterator[ExecutorProcess]:
    """Start the executor. Kill it at the end if it is still running."""
    env = executor_env(gateway.url if gateway else None, **variables)
    process = await asyncio.create_subprocess_exec(
        *command, env=env, stdin=stdin, stdout=PIPE, stderr=PIPE, limit=LINE_LIMIT_BYTES
    )
    try:
        yield ExecutorProcess(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def error_of(command: Sequence[str | Path], text: str | None) -> str:
    """Return the executor's error for the input. stdin stays open, unless `text` is None, so that it must not wait."""
    async with executor(command) as process:
        if text is None:
            process.close_stdin()
        else:
            await process.send(text)
        code, stderr = await process.ended()
        assert code == 1
        assert stderr.startswith("Error: ")
        assert stderr.count("\n") == 1
        return stderr


def python_executor(path: Path, body: str) -> list[str | Path]:
    """Write an executor, and return its command line. `body` defines its `main`."""
    path.write_text(f'import fsm_executor\n{body}\nfsm_executor.run(main, name="test", version="1")\n')
    return [sys.executable, path]
