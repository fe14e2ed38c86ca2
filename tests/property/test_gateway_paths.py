"""No path leads from one session's endpoint to another session, whatever its encoding."""

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from urllib.parse import parse_qs, unquote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from fsm_runner.executors.interface import SessionEndpoint
from tests.support.gateway import Arrived, RecordingCoordinator, at_target, executor_at, gateway_to, path_of
from tests.support.serving import serving

OWN, OTHER = "ses_0a11ce", "ses_0b0b"
REQUESTS = 8
DECODINGS = 4
"""Names are found under this many layers of encoding."""

separators = st.sampled_from(["/", "//", "%2F", "%2f", "%252F", "%255C", "\\", "%5C", "/./", "/../", "/%2e%2e/", ";/"])
plain_parts = st.sampled_from(
    [
        *(OWN, OTHER, OTHER.upper(), OTHER.title(), "sessions", "SESSIONS", "runs", "run_other", "run_unknown"),
        *("sse", "agents", "health", "runners", "runner", "result", "status", "events", "bind", "metadata", "stop"),
        *("affinity", ".", "..", "...", "", "~", "*", "?", "#", "&", "=", "@", ":", "é", "ⅇ", "／", "．．", "\u202e"),
        *("\0", "\n", "\r\n", "\t", " ", "%00", "%0a", "%", "%%", "%zz", "%u002f", "%c0%af", "%c0%ae%c0%ae", "%ff"),
    ]
)


def percent(text: str, times: int) -> str:
    """Percent-encode every byte, `times` times."""
    for _ in range(times):
        text = "".join(f"%{byte:02x}" for byte in text.encode())
    return text


@st.composite
def segments(draw: st.DrawFn) -> str:
    pieces = draw(st.lists(st.tuples(plain_parts, st.integers(0, 3)), min_size=1, max_size=2))
    return "".join(percent(text, times) for text, times in pieces)


@st.composite
def nasty_paths(draw: st.DrawFn) -> str:
    parts = draw(st.lists(segments(), max_size=6))
    return "/" + "".join(part + draw(separators) for part in parts)


templates = st.sampled_from(
    [
        "/sessions/{a}{s}{b}",
        "/sessions/{a}{s}{b}/result",
        "/sessions/{a}{s}{b}{s}events",
        "/sessions/{b}",
        "/sessions/{b}/events",
        "/runs/run_own{s}..{s}run_other",
        "/runs/run_own{s}..{s}..{s}sessions{s}{b}",
        "/runs/{b}/stop",
        "/agents/..{s}sessions{s}{b}",
        "/agents{s}..{s}sessions{s}{b}",
        "/health{s}..{s}sessions{s}{b}{s}bind",
        "/sse/sessions?session_id={b}",
        "/sse/sessions?session_id={a}&session_id={b}",
        "/sse/sessions?session_id={a}%26session_id={b}",
        "/sse/sessions?session_id={a}{s}{b}",
        "/sse/sessions?SESSION_ID={b}",
        "/sse/sessions?session_id={a}#&session_id={b}",
        "/sse/sessions?session_id={a};session_id={b}",
        "/agents?tags=x&session_id={b}",
        "/agents?tags=x%0d%0aX-Session:{b}",
    ]
)


@st.composite
def near_misses(draw: st.DrawFn) -> str:
    """Return open paths with foreign names inserted."""
    times = draw(st.integers(0, 3))
    return draw(templates).format(a=OWN, b=percent(OTHER, times), s=draw(separators))


methods = st.sampled_from(["GET", "POST", "PATCH", "DELETE", "PUT", "HEAD"])
paths = nasty_paths() | near_misses()


def target_of(path: str) -> bytes:
    """Encode the characters that a request line cannot contain, and no others."""
    return b"".join(b"%%%02X" % byte if byte <= 0x20 or byte >= 0x7F else bytes([byte]) for byte in path.encode())


class LeakyCoordinator(RecordingCoordinator):
    """A coordinator that returns the other session, which has no parent, and its run, for any spelling of their ids."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        whose = OTHER if names_the_other(scope["raw_path"] + b"?" + scope["query_string"]) else OWN
        is_agent = scope["path"].startswith("/agents")
        run = {"run_id": "run_other", "session_id": whose, "parent_session_id": None}
        self.answer = {} if is_agent else {"session": {"session_id": whose, "parent_session_id": None}, **run}
        await super().__call__(scope, receive, send)


def names_the_other(target: bytes) -> bool:
    """Return whether any decoder could find the other session in it."""
    text = target.decode("latin-1")
    for _ in range(DECODINGS):
        if OTHER in text.lower() or "run_other" in text.lower():
            return True
        text = unquote(text, "latin-1")
    return False


def is_harmless(arrived: Arrived) -> bool:
    """Return whether it is a look-up of an owner, which the executor does not see, or a look-up of an agent."""
    path, _, query = arrived.target.decode().partition("?")
    _, place, *names = path.split("/")
    if arrived.method != "GET" or arrived.body:
        return False
    if place == "agents":
        return len(names) <= 1 and set(parse_qs(query)) <= {"tags"}
    return place in {"sessions", "runs"} and len(names) == 1 and not query


class GatewayUnderTest:
    """A gateway, its coordinator and an executor of `OWN`, on one loop that runs while requests are sent."""

    def __init__(
        self, run: asyncio.Runner, coordinator: LeakyCoordinator, endpoint: SessionEndpoint, http: httpx.AsyncClient
    ) -> None:
        self.coordinator = coordinator
        self.token = path_of(endpoint)[1:].decode()
        self._run = run
        self._http = http

    def send(self, requests: list[tuple[str, str]]) -> list[httpx.Response]:
        """Send the requests (method, path) one after another."""
        self.coordinator.arrived.clear()

        async def send_all() -> list[httpx.Response]:
            return [
                await at_target(self._http, method, target_of(path), json={} if method == "POST" else None)
                for method, path in requests
            ]

        return self._run.run(send_all())

    def send_to_endpoint(self, requests: list[tuple[str, str]]) -> list[httpx.Response]:
        return self.send([(method, f"/{self.token}{path}") for method, path in requests])


@pytest.fixture(scope="module")
def gateway() -> Iterator[GatewayUnderTest]:
    coordinator = LeakyCoordinator()
    stack = AsyncExitStack()

    async def build() -> GatewayUnderTest:
        endpoints = await stack.enter_async_context(gateway_to(await stack.enter_async_context(serving(coordinator))))
        endpoint = endpoints.endpoint(OWN)
        return GatewayUnderTest(runner, coordinator, endpoint, await stack.enter_async_context(executor_at(endpoint)))

    with asyncio.Runner() as runner:
        yield runner.run(build())
        runner.run(stack.aclose())


requests = st.lists(st.tuples(methods, paths), min_size=1, max_size=REQUESTS)


@settings(max_examples=150)
@given(requests)
def test_no_path_reaches_another_session(gateway: GatewayUnderTest, requests: list[tuple[str, str]]) -> None:
    answers = gateway.send_to_endpoint(requests)
    for arrived in gateway.coordinator.arrived:
        assert not names_the_other(arrived.target) or is_harmless(arrived), arrived
    for answer, request in zip(answers, requests, strict=True):
        assert answer.status_code < 500, request
        assert OTHER.encode() not in answer.content or answer.status_code in {400, 403}, request


@settings(max_examples=150)
@given(requests)
def test_forwarded_paths_are_unambiguous(gateway: GatewayUnderTest, requests: list[tuple[str, str]]) -> None:
    gateway.send_to_endpoint(requests)
    for arrived in gateway.coordinator.arrived:
        path = arrived.target.partition(b"?")[0]
        for segment in path.decode("ascii").removeprefix("/").split("/"):
            decoded = unquote(segment, errors="strict")
            assert decoded not in {"", ".", ".."}, arrived
            assert not set(decoded) & {"/", "\\", "%", "\0", "\r", "\n"}, arrived


wrong_tokens = st.sampled_from(
    [
        *("", "TOKENx", "xTOKEN", "TOKEN%00", "TOKEN%2F", "TOKEN ", "TOKEN;", "TOKEN%20"),
        *("./TOKEN", "../TOKEN", "x/../TOKEN", "/TOKEN", "%2e/TOKEN", "%2fTOKEN"),
    ]
) | st.text(st.characters(exclude_categories=["Cs"]), max_size=50).filter(lambda text: "TOKEN" not in text)


@settings(max_examples=150)
@given(requests, wrong_tokens)
def test_a_wrong_token_is_a_404_whatever_follows(
    gateway: GatewayUnderTest, requests: list[tuple[str, str]], token: str
) -> None:
    wrong = token.replace("TOKEN", gateway.token)
    for answer in gateway.send([(method, f"/{wrong}{path}") for method, path in requests]):
        assert answer.status_code == 404
        assert answer.request.method == "HEAD" or answer.content == b'{"detail":"Not Found"}'
        assert set(answer.headers) == {"content-type", "content-length"}
    assert gateway.coordinator.arrived == []
