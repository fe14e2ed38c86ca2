"""What comes with an answer that nobody has asked for: compression, which can mean any size, and cookies."""

import gzip
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache

import msgspec
import pytest
from starlette.types import Receive, Scope, Send

from fsm_runner.coordinator.api import CoordinatorApi
from fsm_runner.coordinator.auth import TokenAuth
from fsm_runner.coordinator.faults import Unreachable
from fsm_runner.coordinator.token_service import TokenRequest
from tests.support.gateway import executor_at, gateway_to
from tests.support.serving import serving

MIB = 1 << 20
BOMB_MIB = 256
PEAK_LIMIT_MIB = 32


@cache
def bomb() -> bytes:
    """A few hundred bytes that are a quarter of a gigabyte when they are unpacked twice."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join(packer.compress(bytes(MIB)) for _ in range(BOMB_MIB)) + packer.flush()
    return gzip.compress(packed, 9)


class Answers:
    """An ASGI application that says the same to everything but for the token, and keeps what was asked."""

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
async def test_a_compressed_answer_is_not_unpacked(status: int, with_token: bool) -> None:
    answers = Answers(status, bomb(), (b"content-encoding", b"gzip, gzip"), (b"content-type", b"application/json"))
    async with serving(answers) as url:
        auth = TokenAuth(f"{url}/oauth/token", TokenRequest(client_id="c", client_secret="s", audience="a"))
        async with CoordinatorApi(url, auth if with_token else None) as api, little_memory():
            with pytest.raises(Unreachable, match="compressed"):
                await api.health()
    assert {asked[b"accept-encoding"] for asked in answers.asked} == {b"identity"}
    assert len(answers.asked) == (2 if with_token and status == 401 else 1)


async def test_the_gateway_does_not_unpack_what_it_looks_up() -> None:
    answers = Answers(200, bomb(), (b"content-encoding", b"gzip, gzip"))
    async with (
        serving(answers) as url,
        gateway_to(url) as doors,
        executor_at(doors.door("ses_own")) as http,
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
