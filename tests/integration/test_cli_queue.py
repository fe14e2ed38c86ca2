"""`submit` and `runs` with a coordinator that has a queue with options and pages, and with one that has none."""

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from fsm_runner.coordinator_client import api
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_server.server import CoordinatorServer
from fsm_runner.errors import EXIT_OK, EXIT_USAGE
from fsm_runner.protocol.wire import ExecutorInfo, Registration, RunnerAgent, RunRequest
from tests.support.program import Finished, environment, finish
from tests.support.serving import serving

OPTIONS = ("--priority", "-3", "--not-before", "2026-03-01T16:00:00+01:00", "--queue-ttl", "15m")
FIELDS = {"priority": -3, "not_before": "2026-03-01T15:00:00.000000Z", "queue_ttl_seconds": 900.0}
PAGE = 2


class Lists:
    """Five runs, each created a second after the one before, and the requests that a coordinator got."""

    def __init__(self, *, pages: bool, repeats: tuple[str, ...] = ()) -> None:
        self._pages, self._repeats = pages, repeats
        self.runs: list[dict[str, Any]] = [
            {
                "run_id": f"run_{number}",
                "session_id": "ses_1",
                "agent_name": "a" if number % 2 else "b",
                "runner_id": "rnr_1" if number < 3 else None,
                "demands": {"tags": ["gpu"] if number > 3 else []},
                "created_at": f"2026-03-01T15:00:0{number}.000000Z",
            }
            for number in range(1, 6)
        ]
        self.submitted: list[dict[str, Any]] = []
        self.stopped: list[str] = []
        self.queries: list[dict[str, str]] = []
        self.app = Starlette(
            routes=[
                Route("/runs", self._list),
                Route("/runs", self._create, methods=["POST"]),
                Route("/runs/{run_id}/stop", self._stop, methods=["POST"]),
            ]
        )

    async def _list(self, request: Request) -> JSONResponse:
        query = dict(request.query_params)
        self.queries.append(query)
        if not self._pages:
            return JSONResponse({"runs": self.runs})
        found = [run for run in reversed(self.runs) if run["run_id"] < query.get("after", "run_9")]
        limit = min(PAGE, int(query["limit"]))
        more = {"next": found[limit - 1]["run_id"]} if len(found) > limit else {}
        return JSONResponse({"runs": found[:limit], **more})

    async def _create(self, request: Request) -> JSONResponse:
        body = await request.json()
        self.submitted.append(body)
        repeated = {name: body[name] for name in self._repeats if name in body}
        return JSONResponse({"run_id": "run_6", "session_id": "ses_6", "status": "pending", **repeated}, 201)

    async def _stop(self, request: Request) -> JSONResponse:
        self.stopped.append(request.path_params["run_id"])
        return JSONResponse({"ok": True})


async def does(folder: Path, lists: Lists, *arguments: str) -> Finished:
    async with serving(lists.app) as url:
        return await finish(folder, environment(None), *arguments, "-c", url)


async def test_confirmed_options_are_sent_and_the_ids_printed(tmp_path: Path) -> None:
    lists = Lists(pages=True, repeats=tuple(FIELDS))
    ended = await does(tmp_path, lists, "submit", "--prompt", "x", *OPTIONS)
    assert ended.code == EXIT_OK, ended.stderr
    assert lists.submitted == [{"type": "start_session", "parameters": {"prompt": "x"}, **FIELDS}]
    assert json.loads(ended.stdout) == {"run_id": "run_6", "session_id": "ses_6", "status": "pending", **FIELDS}
    assert lists.stopped == []


async def test_a_run_whose_options_are_ignored_is_stopped(tmp_path: Path) -> None:
    lists = Lists(pages=False, repeats=("priority",))
    ended = await does(tmp_path, lists, "submit", "--prompt", "x", *OPTIONS)
    assert (ended.code, ended.stdout) == (EXIT_USAGE, "")
    assert ended.stderr.startswith("error: --not-before, --queue-ttl: the coordinator at http://127.0.0.1:")
    assert ended.stderr.endswith(" does not confirm this, so it may ignore it; run_6 was stopped\n")
    assert lists.stopped == ["run_6"]


async def test_the_embedded_coordinator_confirms_the_options_and_repeats_ids(tmp_path: Path) -> None:
    async with CoordinatorServer(port=0) as server:
        command = ("submit", "--prompt", "x", *OPTIONS, "--idempotency-key", "nightly", "-c", server.url)
        first, again = [await finish(tmp_path, environment(None), *command) for _ in range(2)]
        assert first.code == EXIT_OK, first.stderr
        assert again.stdout == first.stdout
        other = await finish(tmp_path, environment(None), *command, "--priority", "1")
        assert (other.code, other.stdout) == (EXIT_USAGE, "")
        assert f"{json.loads(first.stdout)['run_id']} was started with this idempotency_key" in other.stderr
        async with CoordinatorApi(server.url) as coordinator:
            (run,) = await coordinator.runs()
    shown = json.loads(first.stdout)
    assert shown == {name: getattr(run, name) for name in shown}
    assert shown.keys() == {"run_id", "session_id", "status", "idempotency_key", *FIELDS}
    assert run.attempt == 1


async def test_a_repeated_command_finds_its_run_although_the_agent_is_gone(tmp_path: Path) -> None:
    executor = ExecutorInfo(type="procedural", command="c")
    agents = [RunnerAgent(name="gone", command="c")]
    identity = Registration(hostname="h", project_dir="/p", executor_profile="e", executor=executor, agents=agents)
    async with CoordinatorServer(port=0) as server, CoordinatorApi(server.url) as coordinator:
        runner_id = (await coordinator.register(identity)).runner_id
        command = ("submit", "gone", "message=hello", "--idempotency-key", "nightly", "-c", server.url)
        first = await finish(tmp_path, environment(None), *command)
        await coordinator.deregister(runner_id)
        again = await finish(tmp_path, environment(None), *command)
        assert (again.code, again.stdout) == (EXIT_OK, first.stdout)
        other = await finish(tmp_path, environment(None), *command, "--idempotency-key", "other")
        assert (other.code, "Agent not found: gone" in other.stderr) == (EXIT_USAGE, True), other.stderr


async def test_runs_and_the_runs_of_a_session_are_complete_over_several_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "PAGE_LIMIT", 2)
    async with CoordinatorServer(port=0) as server, CoordinatorApi(server.url) as coordinator:
        runs = []
        for parent in (None, "ses_a", "ses_b", "ses_a", "ses_a"):
            request = RunRequest(type="start_session", parameters={"prompt": "x"}, parent_session_id=parent)
            runs.append((await coordinator.create_run(request)).run_id)
        assert [run.run_id for run in await coordinator.runs()] == runs
        assert [run.run_id for run in await coordinator.children("ses_a")] == [runs[1], *runs[3:]]


@pytest.mark.parametrize(
    ("pages", "arguments", "numbers"),
    [
        (True, (), [1, 2, 3, 4, 5]),
        (True, ("--limit", "3"), [3, 4, 5]),
        (False, ("--limit", "1", "--agent", "a", "--since", "2026-03-01T16:00:02+01:00"), [5]),
        (False, ("--tag", "gpu"), [4, 5]),
    ],
)
async def test_runs_are_listed_the_oldest_first(
    tmp_path: Path, arguments: tuple[str, ...], numbers: list[int], *, pages: bool
) -> None:
    lists = Lists(pages=pages)
    ended = await does(tmp_path, lists, "runs", *arguments)
    assert [line.split()[0] for line in ended.stdout.splitlines()[1:]] == [f"run_{each}" for each in numbers]
    if "--agent" in arguments:
        since = "2026-03-01T15:00:02.000000Z"
        assert lists.queries == [{"agent_name": "a", "created_after": since, "limit": "1"}]
