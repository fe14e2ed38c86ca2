"""Credentials for the coordinator: protocol.md, section 6."""

import asyncio
import json

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fsm_runner.config.settings import TokenRequest
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.auth import TokenAuth
from fsm_runner.coordinator_client.errors import NotAuthenticated, NotRegistered, Unreachable
from tests.support.serving import serving, serving_raw

LOGIN = TokenRequest(client_id="me", client_secret="s3cret", audience="coordinator")


class Issuer:
    """A token service with numbered tokens, and a coordinator that accepts some of them."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.status = 200
        self.expires_in = 3600.0
        self.accepted = {"token-1"}
        self.seen: list[str] = []
        self.refusal = "token expired"

    async def token(self, request: Request) -> Response:
        self.asked.append(json.loads(await request.body()))
        return JSONResponse(
            {"access_token": f"token-{len(self.asked)}", "expires_in": self.expires_in}, status_code=self.status
        )

    async def health(self, request: Request) -> Response:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.seen.append(token)
        if token in self.accepted:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"detail": self.refusal}, status_code=401)

    def app(self) -> Starlette:
        return Starlette(
            routes=[Route("/oauth/token", self.token, methods=["POST"]), Route("/health", self.health)],
        )


async def test_one_token_serves_concurrent_calls() -> None:
    issuer = Issuer()
    async with serving(issuer.app()) as url, CoordinatorApi(url, TokenAuth(f"{url}/oauth/token", LOGIN)) as api:
        await asyncio.gather(*(api.health() for _ in range(10)))
    assert issuer.asked == [
        {
            "client_id": "me",
            "client_secret": "s3cret",
            "audience": "coordinator",
            "grant_type": "client_credentials",
        }
    ]
    assert issuer.seen == ["token-1"] * 10


async def test_a_401_without_a_login_names_its_variables() -> None:
    issuer = Issuer()
    issuer.accepted = set()
    async with serving(issuer.app()) as url:
        async with CoordinatorApi(url) as api:
            with pytest.raises(NotAuthenticated, match="AUTH0_DOMAIN"):
                await api.health()
        async with CoordinatorApi(url, TokenAuth(f"{url}/oauth/token", LOGIN)) as api:
            with pytest.raises(NotAuthenticated, match=r"token expired[^A]*$"):
                await api.health()


async def test_a_rejected_token_is_replaced_once() -> None:
    issuer = Issuer()
    issuer.accepted = {"token-2"}
    async with serving(issuer.app()) as url, CoordinatorApi(url, TokenAuth(f"{url}/oauth/token", LOGIN)) as api:
        await api.health()
        assert issuer.seen == ["token-1", "token-2"]


async def test_a_lost_registration_requests_no_token() -> None:
    issuer = Issuer()
    issuer.accepted = set()
    issuer.refusal = "Runner not registered"
    async with serving(issuer.app()) as url, CoordinatorApi(url, TokenAuth(f"{url}/oauth/token", LOGIN)) as api:
        with pytest.raises(NotRegistered):
            await api.health()
    assert len(issuer.asked) == 1


@pytest.mark.parametrize(("status", "fault"), [(401, NotAuthenticated), (403, NotAuthenticated), (503, Unreachable)])
async def test_an_error_of_the_token_service_is_raised(status: int, fault: type[Exception]) -> None:
    issuer = Issuer()
    issuer.status = status
    async with serving(issuer.app()) as url, CoordinatorApi(url, TokenAuth(f"{url}/oauth/token", LOGIN)) as api:
        with pytest.raises(fault):
            await api.health()


async def test_a_slow_token_service_is_named_instead_of_the_coordinator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    monkeypatch.setattr("fsm_runner.coordinator_client.policy.CONNECT_TIMEOUT_S", 0.0)
    async with serving_raw(hold) as issuer:
        token_url = f"{issuer}/oauth/token"
        auth = TokenAuth(token_url, LOGIN)
        async with CoordinatorApi("http://127.0.0.1:9", auth) as api:
            said = f"the token service {token_url} has not answered within the time limit$"
            with pytest.raises(Unreachable, match=said):
                await api._transport.call("GET", "/health", timeout_s=0.1)
            await auth.aclose()
        assert auth.awaited_url == ""
