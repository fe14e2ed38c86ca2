"""The OpenAPI documents of the HTTP servers, compared with their routes and Structs."""

import itertools
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import msgspec
import pytest
from jsonschema import Draft202012Validator
from starlette.types import Receive, Scope, Send

from fsm_runner.coordinator_server.http import routes_approval, routes_client, routes_runner, schemas
from fsm_runner.coordinator_server.http.schemas import SessionPatch
from fsm_runner.coordinator_server.store.interface import EventHead
from fsm_runner.protocol import approvals, wire
from fsm_runner.reporting import executor_status, provider_limit
from fsm_runner.reporting.executor_status import ExecutorStatus
from tests.support.gateway import RecordingCoordinator, at_target, executor_at, gateway_to, path_of
from tests.support.openapi import COORDINATOR, DOCUMENTS, GATEWAY, operations
from tests.support.serving import serving

STRUCTS = [
    *(
        wire.Agent,
        wire.Registration,
        wire.Registered,
        wire.RunnerRef,
        wire.Run,
        wire.RunList,
        wire.RunRequest,
        wire.RunCreated,
    ),
    *(wire.RunnerList, wire.AgentOffer, wire.SessionList, wire.SessionStatus, wire.SessionResult, wire.Bind),
    *(schemas.CompletedReport, schemas.FailedReport, schemas.StoppedReport, schemas.SessionEndReport),
    *(schemas.Event, EventHead, SessionPatch),
    *(approvals.ApprovalList, approvals.ApprovalAnswer, approvals.DecisionResponse, approvals.DecisionRequest),
]
OWN, CHILD = "ses_own", "ses_child"


def test_the_coordinators_document_has_its_routes_and_no_others() -> None:
    routes = [*routes_runner.ROUTES, *routes_client.ROUTES, *routes_approval.ROUTES]
    served = {(method, route.path) for route in routes for method in route.methods or () if method != "HEAD"}
    assert {(each.method, each.path) for each in operations(COORDINATOR)} == served


def test_the_schemas_are_those_of_the_structs() -> None:
    _, schemas = msgspec.json.schema_components(STRUCTS, ref_template="#/components/schemas/{name}")
    documented = DOCUMENTS[COORDINATOR]["components"]["schemas"]
    assert {name: documented.get(name) for name in schemas} == schemas


def test_the_metadata_for_the_runner_has_the_schemas_of_its_structs() -> None:
    structs = [executor_status.Usage, provider_limit.ProviderLimit]
    _, schemas = msgspec.json.schema_components(structs, ref_template="#/components/schemas/{name}")
    documented = DOCUMENTS[GATEWAY]["components"]["schemas"]
    assert {name: documented.get(name) for name in schemas} == schemas
    for name in ("MetadataOfExecutor", "MetadataOfExecutorInPath"):
        assert documented[name]["properties"].keys() >= set(ExecutorStatus.__struct_fields__)


@pytest.mark.parametrize("file", DOCUMENTS)
def test_a_document_is_sound(file: str) -> None:
    document = DOCUMENTS[file]
    assert document["openapi"].startswith("3.1.")
    methods = [each for item in document["paths"].values() for each in item.values() if "responses" in each]
    names = [each["operationId"] for each in methods]
    assert len(names) == len(set(names)) == len(operations(file))
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    for path, item in document["paths"].items():
        named = [each["name"] for each in item.get("parameters", ())]
        assert re.findall(r"{(\w+)}", path) == named, path


@pytest.mark.parametrize("file", DOCUMENTS)
def test_the_examples_match_their_schemas(file: str) -> None:
    for each in operations(file):
        assert each.body is None or each.body.defects(each.example) == [], each


class FamilyCoordinator(RecordingCoordinator):
    """Returns sessions and runs of the executor or of its child, depending on the requested name."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        session_id = OWN if OWN in scope["path"] else CHILD
        session = {"session_id": session_id, "parent_session_id": None if session_id == OWN else OWN}
        self.answer = {"session": session, "run_id": scope["path"].split("/")[-1], "status": "pending", **session}
        await super().__call__(scope, receive, send)


@pytest.fixture
async def executor() -> AsyncIterator[tuple[httpx.AsyncClient, bytes]]:
    """Yield an executor, and the prefix of its paths."""
    async with AsyncExitStack() as stack:
        endpoints = await stack.enter_async_context(
            gateway_to(await stack.enter_async_context(serving(FamilyCoordinator())))
        )
        endpoint = endpoints.endpoint(OWN)
        yield await stack.enter_async_context(executor_at(endpoint)), path_of(endpoint)


async def is_open(executor: tuple[httpx.AsyncClient, bytes], method: str, path: str) -> bool:
    """Return whether the request is open for the executor's session or a child."""
    http, start = executor
    for session_id in (OWN, CHILD):
        filled = re.sub(r"{\w+}", session_id, path)
        query = b"?session_id=" + session_id.encode() if path.startswith("/sse") else b""
        body = {"session_id": OWN, "executor_session_id": "x", "event_type": "message"}
        if path == "/runs":
            body = {"type": "start_session"}
        answer = await at_target(http, method, start + filled.encode() + query, json=body if method != "GET" else None)
        if answer.status_code != 403:
            assert answer.is_success, (method, path, answer.text)
            return True
        assert "is not open to executors" in answer.text or "another session" in answer.text, answer.text
    return False


@pytest.mark.sends_invalid_requests("events that have no more than their kind")
async def test_the_gateways_document_has_exactly_the_open_requests(
    executor: tuple[httpx.AsyncClient, bytes],
) -> None:
    documented = {(each.method, each.path) for each in operations(GATEWAY)}
    paths = sorted({each.path for file in DOCUMENTS for each in operations(file)})
    methods = ["GET", "POST", "PATCH", "PUT", "DELETE"]
    found = {each for each in itertools.product(methods, paths) if await is_open(executor, *each)}
    assert found == documented
