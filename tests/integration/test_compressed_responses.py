"""Compressed responses, which may be of any size, and cookies. The client asks for neither."""

import asyncio
import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache

import msgspec
import pytest
from starlette.types import Receive, Scope, Send

from fsm_runner.config.settings import TokenRequest
from fsm_runner.coordinator_client import policy
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.auth import TokenAuth
from fsm_runner.coordinator_client.errors import NotRegistered, Unreachable
from fsm_runner.coordinator_client.token_service import TokenService
from fsm_runner.protocol import wire
from tests.support.gateway import executor_at, gateway_to
from tests.support.serving import serving

MIB = 1 << 20
BOMB_MIB = 256
PEAK_LIMIT_MIB = 32
REGISTRATION = wire.Registration(
    hostname="h", project_dir="/p", executor_profile="x", executor=wire.ExecutorInfo(type="procedural", command="c")
)


@cache
def bomb() -> bytes:
    """Return a few hundred bytes that become a quarter of a gigabyte after two decompressions."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(packer.compress(bytes(MIB)) for _ in range(BOMB_MIB)) + packer.flush()
    return gzip.compress(packed, 9)


class Answers:
    """An ASGI application with one response to all requests except token requests. It records the requests."""

    def __init__(self, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
        self.start = {"type": "http.response.start", "status": status, "headers": list(headers)}
        self.body = body
        self.asked: list[dict[bytes, bytes]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/oauth/token":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            token = msgspec.json.encode({"access_token": "t", "expires_in": 3600})
            await send({"type": "http.response.body", "body": token})
            return
        self.asked.append(dict(scope["headers"]))
        await send(self.start)
        await send({"type": "http.response.body", "body": self.body})


@asynccontextmanager
async def little_memory() -> AsyncIterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < PEAK_LIMIT_MIB * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("status", [200, 400, 401, 409, 503])
@pytest.mark.parametrize("with_token", [False, True])
async def test_a_response_compressed_twice_is_not_decompressed(status: int, with_token: bool) -> None:
    answers = Answers(status, bomb(), (b"content-encoding", b"gzip, gzip"), (b"content-type", b"application/json"))
    async with serving(answers) as url:
        auth = TokenAuth(f"{url}/oauth/token", TokenRequest(client_id="c", client_secret="s", audience="a"))
        async with CoordinatorApi(url, auth if with_token else None) as api, little_memory():
            with pytest.raises(Unreachable, match="compressed"):
                await api.health()
    assert {asked[b"accept-encoding"] for asked in answers.asked} == {b"identity"}
    assert len(answers.asked) == (2 if with_token and status == 401 else 1)


@pytest.mark.parametrize(("encoding", "pack"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)])
async def test_a_proxy_that_always_compresses_changes_nothing(encoding: bytes, pack: Callable[[bytes], bytes]) -> None:
    body = b'{"runner_id": "rnr_1", "runs": []}'
    async with serving(Answers(200, pack(body), (b"content-encoding", encoding))) as url, CoordinatorApi(url) as api:
        assert (await api.register(REGISTRATION)).runner_id == "rnr_1"
        await api.heartbeat("rnr_1")
        assert await api.runs() == []
        assert await api.script_archive("s") == body


@pytest.mark.parametrize("with_token", [False, True])
async def test_a_compressed_401_is_understood(with_token: bool) -> None:
    body = gzip.compress(b'{"detail": "Runner not registered"}')
    answers = Answers(401, body, (b"content-encoding", b"gzip"))
    async with serving(answers) as url:
        auth = TokenAuth(f"{url}/oauth/token", TokenRequest(client_id="c", client_secret="s", audience="a"))
        async with CoordinatorApi(url, auth if with_token else None) as api:
            with pytest.raises(NotRegistered):
                await api.heartbeat("rnr_1")
    assert len(answers.asked) == 1


async def test_a_token_service_may_compress() -> None:
    body = gzip.compress(b'{"access_token": "t", "expires_in": 60}')
    async with serving(Answers(200, body, (b"content-encoding", b"gzip"))) as url:
        service = TokenService(url, TokenRequest(client_id="c", client_secret="s", audience="a"))
        assert (await service.new_token())[0] == "t"


@pytest.mark.parametrize("status", [200, 401, 503])
@pytest.mark.parametrize("with_token", [False, True])
async def test_a_decompression_bomb_is_read_up_to_the_limit(
    status: int, with_token: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy, "RESPONSE_LIMIT_BYTES", MIB)
    answers = Answers(status, gzip.decompress(bomb()), (b"content-encoding", b"gzip"))
    async with serving(answers) as url:
        auth = TokenAuth(f"{url}/oauth/token", TokenRequest(client_id="c", client_secret="s", audience="a"))
        async with CoordinatorApi(url, auth if with_token else None) as api, little_memory():
            with pytest.raises(Unreachable, match="larger than"):
                await api.health()


async def test_an_executor_gets_a_compressed_response_only_if_it_accepts_one() -> None:
    body = b'{"status": "healthy"}'
    answers = Answers(200, gzip.compress(body), (b"content-encoding", b"gzip"), (b"content-length", b"41"))
    async with (
        serving(answers) as url,
        gateway_to(url) as endpoints,
        executor_at(endpoints.endpoint("ses_own")) as http,
    ):
        for offered, is_packed in {"identity": False, "gzip;q=0, *": False, "*": True, "br, gzip;q=0.5": True}.items():
            async with http.stream("GET", "/health", headers={"accept-encoding": offered}) as answer:
                raw = b"".join([chunk async for chunk in answer.aiter_raw()])
            assert (raw == body) is not is_packed
            assert ("content-encoding" in answer.headers) is is_packed


async def test_a_stream_of_events_is_decompressed_as_it_arrives() -> None:
    go = asyncio.Event()

    async def coordinator(scope: Scope, receive: Receive, send: Send) -> None:
        packer = zlib.compressobj(wbits=31)
        head = [(b"content-type", b"text/event-stream"), (b"content-encoding", b"gzip")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        for event in (b"event: one\n\n", b"event: two\n\n"):
            packed = packer.compress(event) + packer.flush(zlib.Z_SYNC_FLUSH)
            await send({"type": "http.response.body", "body": packed, "more_body": True})
            await go.wait()
        await send({"type": "http.response.body", "body": packer.flush()})

    async with (
        serving(coordinator) as url,
        gateway_to(url) as endpoints,
        executor_at(endpoints.endpoint("ses_own")) as http,
        http.stream("GET", "/sse/sessions?session_id=ses_own", headers={"accept-encoding": "identity"}) as answer,
    ):
        chunks = answer.aiter_raw()
        assert await anext(chunks) == b"event: one\n\n"
        go.set()
        assert b"".join([chunk async for chunk in chunks]) == b"event: two\n\n"


async def test_the_gateway_decompresses_each_response_once() -> None:
    answers = Answers(200, bomb(), (b"content-encoding", b"gzip, gzip"))
    async with (
        serving(answers) as url,
        gateway_to(url) as endpoints,
        executor_at(endpoints.endpoint("ses_own")) as http,
        little_memory(),
    ):
        assert (await http.get("/sessions/ses_other")).status_code == 502
        assert (await http.post("/runs", json={"type": "start_session"})).status_code == 502


async def test_cookies_are_not_kept() -> None:
    cookies = [(b"set-cookie", f"c{number}={'x' * 100}; Path=/".encode()) for number in range(50)]
    answers = Answers(200, b"{}", (b"set-cookie", b'\xff=\x01"; expires=never; max-age=x'), *cookies)
    async with serving(answers) as url, CoordinatorApi(url) as api:
        for _ in range(3):
            await api.health()
    assert not any(b"cookie" in asked for asked in answers.asked)
