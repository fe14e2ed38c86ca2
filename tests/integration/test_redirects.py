"""Redirects: 307 and 308 to the same host are followed, the others are reported with a remedy."""

import json
import re
from collections.abc import Callable

import pytest
from starlette.types import Receive, Scope, Send

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.auth import TokenAuth
from fsm_runner.coordinator_client.errors import Refused, Unreachable
from fsm_runner.coordinator_client.token_service import TokenService
from fsm_runner.coordinator_server.auth.signing_keys import KeysUnavailable, SigningKeys
from tests.support.first_calls import LOGIN, faults_of
from tests.support.gateway import executor_at, gateway_to
from tests.support.polling import REGISTRATION
from tests.support.serving import raw_server, serving

pytestmark = pytest.mark.sends_invalid_requests("redirects lead to any path")

ANSWER = {"runner_id": "rnr_1", "run_id": "run_1", "session_id": "ses_1", "status": "pending", "access_token": "t"}

Target = Callable[[str], str]
"""Returns the `Location` for the path and query of a request."""


class Redirecting:
    """Redirects paths that do not begin with `/moved`, answers the others, and records the requests."""

    def __init__(self, status: int, target: Target) -> None:
        self._status = status
        self._target = target
        self.arrived: list[tuple[str, str, bytes, bytes]] = []
        """The method, path, body and `Authorization` of each request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        path = scope["raw_path"].decode() + ("?" + scope["query_string"].decode() if scope["query_string"] else "")
        authorization = dict(scope["headers"]).get(b"authorization", b"")
        self.arrived.append((scope["method"], path, message.get("body", b""), authorization))
        if path.startswith("/moved"):
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": json.dumps({**ANSWER, "expires_in": 60}).encode()})
        else:
            headers = [(b"location", location.encode())] if (location := self._target(path)) else []
            await send({"type": "http.response.start", "status": self._status, "headers": headers})
            await send({"type": "http.response.body", "body": b"<html>moved</html>"})

    @property
    def paths(self) -> list[str]:
        return [path for _, path, _, _ in self.arrived]


def moved(path: str) -> str:
    return f"/moved{path}"


@pytest.mark.parametrize("status", [307, 308])
async def test_a_redirect_to_the_same_host_is_followed_with_body_and_token(status: int) -> None:
    app = Redirecting(status, moved)
    async with serving(app) as url:
        auth = TokenAuth(f"{url}/oauth/token", LOGIN)
        async with CoordinatorApi(url, auth) as api:
            assert (await api.register(REGISTRATION)).runner_id == "rnr_1"
            await api.deliver("/runner/runs/run_1/started", b'{"runner_id": "rnr_1"}')
            assert b"rnr_1" in await api.script_archive("s")
            await api.deregister("rnr_1")
    assert app.paths == [
        *("/oauth/token", "/moved/oauth/token"),
        *("/runner/register", "/moved/runner/register"),
        *("/runner/runs/run_1/started", "/moved/runner/runs/run_1/started"),
        *("/scripts/s/download", "/moved/scripts/s/download"),
        *("/runners/rnr_1?self=true", "/moved/runners/rnr_1?self=true"),
    ]
    for asked, repeated in zip(app.arrived[::2], app.arrived[1::2], strict=True):
        assert (asked[0], *asked[2:]) == (repeated[0], *repeated[2:])
    assert app.arrived[-1][3] == b"Bearer t"


async def test_calls_of_executors_are_redirected_as_well() -> None:
    app = Redirecting(308, moved)
    async with serving(app) as url, gateway_to(url) as endpoints, executor_at(endpoints.endpoint("ses_own")) as http:
        assert (await http.get("/health")).json()["runner_id"] == "rnr_1"
        created = await http.post("/runs", json={"type": "start_session", "parameters": {}})
        assert created.json()["run_id"] == "run_1"
        assert (await http.post("/runs/run_1/stop")).status_code == 200
    assert app.paths[:4] == ["/health", "/moved/health", "/runs", "/moved/runs"]
    assert app.paths[-2:] == ["/runs/run_1/stop", "/moved/runs/run_1/stop"]


NOT_FOLLOWED: dict[str, tuple[int, Target]] = {
    "301": (301, moved),
    "302": (302, moved),
    "303": (303, moved),
    "another host": (307, lambda path: f"http://other.invalid{path}"),
    "another port": (308, lambda path: f"http://127.0.0.1:9{path}"),
    "another scheme": (307, lambda path: f"https://127.0.0.1{path}"),
}


@pytest.mark.parametrize("name", NOT_FOLLOWED)
async def test_other_redirects_are_named_with_what_to_configure(name: str) -> None:
    status, target = NOT_FOLLOWED[name]
    app = Redirecting(status, target)
    async with serving(app) as url, CoordinatorApi(url) as api:
        with pytest.raises(Unreachable) as raised:
            await api.register(REGISTRATION)
        there = target("/runner/register") if "://" in target("") else f"{url}/moved/runner/register"
        configured = there.removesuffix("/runner/register")
        said = f"HTTP {status}: redirects to {there}; configure that one ({configured})"
        assert str(raised.value) == f"POST {url}/runner/register: {said}"
        async with gateway_to(url) as endpoints, executor_at(endpoints.endpoint("ses_own")) as http:
            refused = await http.get("/health")
            assert (refused.status_code, "detail" in refused.json()) == (502, True)
    assert app.paths == ["/runner/register", "/health"]


async def test_a_rejection_after_a_redirect_is_final_only_at_the_same_path() -> None:
    async def refusing(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith("/moved") or scope["path"].endswith("/"):
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b'{"detail": "unknown"}'})
        else:
            location = {"/agents/a": b"/moved/agents/a", "/agents/b": b"/agents/b/"}.get(scope["path"], b"/moved/page")
            await send({"type": "http.response.start", "status": 307, "headers": [(b"location", location)]})
            await send({"type": "http.response.body", "body": b""})

    async with serving(refusing) as url, CoordinatorApi(url) as api:
        for name in "ab":
            with pytest.raises(Refused, match="unknown"):
                await api.agent(name)
        with pytest.raises(Unreachable, match=rf"HTTP 404: .*unknown.* \(redirected to {url}/moved/page\)$"):
            await api.register(REGISTRATION)


async def test_a_redirect_to_a_login_page_is_reported_without_credentials() -> None:
    app = Redirecting(302, lambda _: "https://user:secret@sso.invalid/login?next=/")
    async with serving(app) as url, CoordinatorApi(url) as api:
        with pytest.raises(Unreachable, match="; configure that one, unless it is a login page") as raised:
            await api.health()
    assert "redirects to https://user:***@sso.invalid/login?next=/;" in str(raised.value)


UNUSABLE = [
    "javascript:alert(1)/health",
    "ftp://127.0.0.1/health",
    "http://127.0.0.1:99999/health",
    "http://127.0.0.1:port/health",
    "http://127.0.0.1:0/health",
    "http://[::1/health",
    "http://xn--/health",
    "http://user:secret@127.0.0.1:99999/health",
]


@pytest.mark.parametrize("status", [302, 307])
@pytest.mark.parametrize("location", UNUSABLE)
async def test_a_redirect_to_an_invalid_url_is_reported(location: str, status: int) -> None:
    shown = location.replace("secret", "***")
    text = f"redirects to '{shown}', which is not a URL that can be called: is the URL right?"
    async with serving(Redirecting(status, lambda _: location)) as url, CoordinatorApi(url) as api:
        with pytest.raises(Unreachable, match=re.escape(f"GET {url}/health: HTTP {status}: {text}")):
            await api.health()
        with pytest.raises(Unreachable, match=re.escape(f"GET {url}/health: {text}")):
            async with api.forward("GET", "/health", [], None):
                pass
        with pytest.raises(Unreachable, match=re.escape(text)):
            await TokenService(f"{url}/oauth/token", LOGIN).new_token()


@pytest.mark.parametrize("header", [b"", b"location: \r\n"])
async def test_a_redirect_without_a_target_is_reported(header: bytes) -> None:
    text = "redirects, but names no target (its Location header is empty or missing): is the URL right?"
    async with raw_server(b"HTTP/1.1 307 Moved\r\n%bcontent-length: 0\r\n\r\n" % header) as url:
        for said in await faults_of(url):
            assert said.endswith(f": HTTP 307: {text}")
        async with CoordinatorApi(url) as api:
            with pytest.raises(Unreachable, match=re.escape(text)):
                async with api.forward("GET", "/health", [], None):
                    pass


async def test_redirects_in_a_circle_end() -> None:
    app = Redirecting(307, lambda path: path)
    async with serving(app) as url, CoordinatorApi(url) as api:
        with pytest.raises(Unreachable, match=f"redirects more than 5 times, last to {url}/health"):
            await api.health()
        assert len(app.arrived) == 6
        with pytest.raises(Unreachable, match="redirects more than 5 times"):
            async with api.forward("GET", "/health", [], None):
                pass


async def test_a_redirect_of_the_token_service_is_reported() -> None:
    app = Redirecting(302, lambda path: f"https://tenant.invalid{path}")
    async with serving(app) as url:
        said = r"HTTP 302: redirects to https://tenant\.invalid/\S+; set AUTH0_DOMAIN to tenant\.invalid$"
        with pytest.raises(Unreachable, match=said):
            await TokenService(f"{url}/oauth/token", LOGIN).new_token()
        keys = SigningKeys(f"{url}/.well-known/jwks.json")
        with pytest.raises(KeysUnavailable, match=said):
            await keys.key("key-1")
        await keys.aclose()
    async with serving(Redirecting(302, lambda _: "https://tenant.invalid/login")) as url:
        with pytest.raises(Unreachable, match=r"redirects to https://tenant\.invalid/login; correct AUTH0_DOMAIN$"):
            await TokenService(f"{url}/oauth/token", LOGIN).new_token()
