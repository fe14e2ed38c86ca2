"""The checks of the product's requests: they find invalid ones, and ignore other clients."""

import contextlib

import httpx
import msgspec
import pytest

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.errors import Refused
from fsm_runner.coordinator_client.http_clients import USER_AGENT
from tests.support.deployed import CHECKS, RequestChecks
from tests.support.embedded import embedded_coordinator
from tests.support.gateway import RecordingCoordinator
from tests.support.proxy import FaultProxy
from tests.support.serving import serving

PRODUCT = [(b"User-Agent", USER_AGENT.encode())]
RUN = {"type": "start_session", "parameters": {}}
PATH, EMPTY = "/sessions/ses_1/events", b"{}"
MISSING = ["event_type", "session_id", "timestamp"]


@pytest.mark.parametrize(
    ("method", "target", "body", "defect"),
    [
        ("POST", "/runs", msgspec.json.encode(RUN), None),
        ("POST", "/runs", b'{"parameters": {}}', "'type' is a required property"),
        ("POST", "/runs", b'{"type": "start_session"}', "'parameters' is a required property"),
        ("POST", "/runs", b'{"type": "other", "parameters": {}}', "'other' is not one of"),
        ("POST", "/runs", b"", "not JSON"),
        ("GET", "/runs?status=claimed", b"", None),
        ("GET", "/runs?state=claimed", b"", "the query has state"),
        ("GET", "/runner/runs", b"", "the query has no runner_id"),
        ("GET", "/runs/a%2Fb", b"", None),
        ("GET", "/runs/a", b"{}", "a body is not documented"),
        ("PUT", "/runs", b"{}", "has no such call"),
        ("POST", "/oauth/token", b"{}", None),
    ],
)
def test_a_wrong_request_of_the_product_is_noticed(method: str, target: str, body: bytes, defect: str | None) -> None:
    checks = RequestChecks()
    checks.check(method, target, PRODUCT, body)
    found = checks.take()
    assert (defect is None and found == []) or (len(found) == 1 and str(defect) in found[0])
    checks.check(method, target, [(b"user-agent", b"python-httpx/1")], b"wrong")
    assert checks.take() == []


@pytest.mark.parametrize(
    ("method", "path", "body", "defects"),
    [
        ("POST", "/bind", {"session_id": "s", "executor_session_id": "e"}, 0),
        ("POST", "/bind", {"session_id": "s"}, 1),
        ("POST", "/bind", {"executor_session_id": "e"}, 1),
        ("POST", "/events", {"session_id": "s", "event_type": "message", "timestamp": "t"}, 0),
        ("POST", "/events", {"session_id": "s", "event_type": "message", "timestamp": "t", "content": "text"}, 1),
        ("PATCH", "/metadata", {"session_id": "s", "last_resumed_at": 5}, 1),
        ("POST", "/runs", {"parameters": {}}, 1),
    ],
)
def test_a_wrong_request_of_an_executor_is_noticed(
    method: str, path: str, body: dict[str, object], defects: int
) -> None:
    checks = RequestChecks()
    checks.check_executor(method, path, msgspec.json.encode(body))
    assert len(checks.take()) == defects


async def test_each_server_that_stands_for_a_coordinator_hands_requests_over() -> None:
    async with embedded_coordinator() as coordinator, serving(RecordingCoordinator()) as url, FaultProxy(url) as proxy:
        for address in (coordinator.server.url, url, proxy.url):
            async with CoordinatorApi(address) as api:
                with contextlib.suppress(Refused):
                    await api.deliver(PATH, EMPTY)
            found = CHECKS.take()
            # The proxy hands the request to the server behind it with a client of its own.
            assert [each for each in MISSING if f"'{each}' is a required property" in "".join(found)] == MISSING
            assert len(found) == len(MISSING)
            async with httpx.AsyncClient(trust_env=False) as http:
                await http.post(address + PATH, content=EMPTY)
            assert CHECKS.take() == []
