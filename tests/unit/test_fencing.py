"""The headers of the runner's calls, and the refusals that they bring (docs/protocol.md, section 1.1)."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.errors import DuplicateRunner, NotRegistered, RegistrationSuperseded, RunReassigned
from fsm_runner.coordinator_client.policy import Policies
from fsm_runner.protocol import wire
from fsm_runner.util.retry import RetryPolicy
from tests.support.serving import serving

REGISTRATION = wire.Registration(
    hostname="h", project_dir="/p", executor_profile="x", executor=wire.ExecutorInfo(type="procedural", command="c")
)
NO_RETRIES = Policies(registration_conflict=RetryPolicy(base_s=0, cap_s=0, limit_s=0))
EVENT = "/sessions/ses_1/events"
SUPERSEDED = {"error": "registration_superseded", "runner_id": "me", "message": "Another process"}

RUNNER_CALLS: dict[str, Callable[[CoordinatorApi], Awaitable[object]]] = {
    "poll": lambda api: api.poll("me", 0),
    "heartbeat": lambda api: api.heartbeat("me"),
    "deliver": lambda api: api.deliver(EVENT, b"{}"),
    "deregister": lambda api: api.deregister("me"),
    "register": lambda api: api.register(REGISTRATION),
}
OTHER_CALLS: dict[str, Callable[[CoordinatorApi], Awaitable[object]]] = {
    "create_run": lambda api: api.create_run(wire.RunRequest(type="start_session", parameters={})),
    "stop_run": lambda api: api.stop_run("run_1"),
    "held": lambda api: api.held("me", "claimed"),
    "health": lambda api: api.health(),
}


class Coordinator:
    """Answers each call with the next of `answers`, or with a registration, and records the headers."""

    def __init__(self, api: CoordinatorApi) -> None:
        self.api = api
        self.answers: deque[tuple[int, Any]] = deque()
        self.seen: list[tuple[str | None, ...]] = []
        """The numbers of the registration, the runs and their attempts in the headers."""
        self.held = asyncio.Event()
        """Cleared while the response to a registration is held."""
        self.held.set()
        self.registers = asyncio.Event()

    @property
    def numbers(self) -> list[str | None]:
        return [number for number, *_ in self.seen]

    async def respond(self, request: Request) -> JSONResponse:
        names = ("x-runner-registration", "x-run-id", "x-run-attempt")
        self.seen.append(tuple(map(request.headers.get, names)))
        answer = {"runner_id": "me", "runs": [], "run_id": "run_1", "session_id": "ses_1"}
        status, body = self.answers.popleft() if self.answers else (200, answer)
        if request.url.path.endswith("/register"):
            self.registers.set()
            await self.held.wait()
        return JSONResponse(body, status)

    def refuse(self, detail: dict[str, Any], count: int = 1) -> None:
        self.answers.extend([(409, {"detail": detail})] * count)

    async def give_number(self, number: int | None) -> None:
        self.answers.append((200, {"runner_id": "me", "registration": number}))
        await self.api.register(REGISTRATION)
        self.seen.clear()


@asynccontextmanager
async def coordinator() -> AsyncIterator[Coordinator]:
    async def respond(request: Request) -> JSONResponse:
        return await bench.respond(request)

    methods = ["GET", "POST", "PATCH", "DELETE"]
    async with (
        serving(Starlette(routes=[Route("/{path:path}", respond, methods=methods)])) as url,
        CoordinatorApi(url) as api,
    ):
        bench = Coordinator(api)
        yield bench


@pytest.mark.parametrize("number", [None, 7])
async def test_the_calls_of_a_registered_runner_have_its_number_if_there_is_one(number: int | None) -> None:
    async with coordinator() as bench:
        await bench.give_number(number)
        for call in (*RUNNER_CALLS.values(), *OTHER_CALLS.values()):
            await call(bench.api)
    shown = None if number is None else str(number)
    assert bench.numbers == [shown] * len(RUNNER_CALLS) + [None] * len(OTHER_CALLS)


async def test_a_message_names_its_run_and_has_the_number_of_its_origin_until_the_process_has_one() -> None:
    async with coordinator() as bench:
        await bench.api.deliver(EVENT, b"{}", run_id="run_1", attempt=1)
        await bench.api.deliver(EVENT, b"{}", run_id="run/\n1", attempt=2, registration=3)
        assert bench.seen == [(None, None, None), ("3", "run%2F%0A1", "2")]
        await bench.give_number(4)
        await bench.api.deliver(EVENT, b"{}", run_id="run_1", attempt=1, registration=3)
        await bench.api.deliver("/runner/runs/run_1/started", b"{}", attempt=2)
        assert bench.seen == [("4", "run_1", "1"), ("4", None, "2")]
    assert bench.api.fencing.registration == 4


async def test_without_a_number_there_is_no_new_header() -> None:
    async with coordinator() as bench:
        await bench.give_number(None)
        await bench.api.deliver(EVENT, b"{}", run_id="run_1", attempt=1)
        assert bench.seen == [(None, None, None)]


async def test_a_reassigned_run_and_a_superseded_registration_are_errors_of_their_own() -> None:
    async with coordinator() as bench:
        await bench.give_number(4)
        bench.refuse({"error": "run_reassigned", "run_id": "run_1", "attempt": 3, "message": "given away"})
        with pytest.raises(RunReassigned, match="given away") as reassigned:
            await bench.api.deliver(EVENT, b"{}")
        assert reassigned.value.attempt == 3
        for call in (each for name, each in RUNNER_CALLS.items() if name != "register"):
            bench.refuse(SUPERSEDED)
            with pytest.raises(RegistrationSuperseded, match="Another process"):
                await call(bench.api)


async def test_a_call_that_a_new_registration_of_this_process_has_overtaken_is_repeated() -> None:
    async with coordinator() as bench:
        await bench.give_number(4)

        async def register_meanwhile(_: Any) -> str:
            if bench.api.fencing.registration == 4:
                await bench.give_number(5)
                raise RegistrationSuperseded("old", 409)
            return "accepted"

        assert await bench.api.fencing.call(register_meanwhile) == "accepted"


async def test_a_registration_without_a_response_may_be_the_one_that_supersedes() -> None:
    async with coordinator() as bench:
        await bench.give_number(4)
        bench.held.clear()
        registering = asyncio.create_task(bench.api.register(REGISTRATION))
        await bench.registers.wait()
        bench.refuse(SUPERSEDED)
        with pytest.raises(NotRegistered):
            await bench.api.heartbeat("me")
        registering.cancel()  # the response is lost
        await asyncio.wait([registering])
        bench.refuse(SUPERSEDED)
        with pytest.raises(NotRegistered):
            await bench.api.heartbeat("me")
        bench.held.set()
        await bench.give_number(6)
        bench.refuse(SUPERSEDED)
        with pytest.raises(RegistrationSuperseded):
            await bench.api.heartbeat("me")


async def test_a_process_that_may_not_register_again_is_superseded() -> None:
    async with coordinator() as bench:
        superseded: list[RegistrationSuperseded] = []
        client = CoordinatorClient(bench.api, NO_RETRIES, on_superseded=superseded.append)
        bench.answers.append((200, {"runner_id": "me", "registration": 4}))
        await client.register(REGISTRATION)
        bench.refuse({"error": "duplicate_runner", "runner_id": "me", "message": "online"})
        bench.refuse(SUPERSEDED)
        with pytest.raises(DuplicateRunner):
            await client.register(REGISTRATION)
        assert len(superseded) == 1


async def test_a_process_that_has_not_registered_yet_cannot_be_superseded() -> None:
    async with coordinator() as bench:
        bench.refuse(SUPERSEDED)
        with pytest.raises(NotRegistered):
            await bench.api.deliver(EVENT, b"{}", registration=3)
        assert bench.numbers == ["3"]
