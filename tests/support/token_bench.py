"""A token service and a coordinator in one, with responses set by the test, and a client with its own clock."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from fsm_runner.config.settings import TokenRequest
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.auth import TokenAuth
from fsm_runner.coordinator_client.policy import UNAUTHORIZED_LIMIT_BYTES
from fsm_runner.diagnostics.redaction import Redactor
from tests.support.embedded import Clock
from tests.support.serving import serving
from tests.support.watch import Watch

SECRET = "client-s3cret"
LOGIN = TokenRequest(client_id="me", client_secret=SECRET, audience="coordinator")
LIFETIME_S = 3600.0
RENEWAL = "token-renewal"


class Service:
    """Issues numbered tokens, and is also the coordinator that accepts them, except those in `refused`."""

    def __init__(self) -> None:
        self.asked = 0
        self.answer: Response | None = None
        """Sent in place of a token."""
        self.expires_in: float = LIFETIME_S
        self.gate = asyncio.Event()
        """The token service holds its responses while this is not set."""
        self.gate.set()
        self.seen: list[str] = []
        """The tokens of the calls to the coordinator."""
        self.refused: set[str] = set()
        self.endless = False
        """Whether the body of a refusal never ends."""
        self.all_there: asyncio.Barrier | None = None
        """Calls are answered once this number has arrived."""
        self._watch = Watch(lambda: f"asked {self.asked} times")

    async def has_been_asked(self, times: int) -> None:
        await self._watch.until(lambda: self.asked >= times, f"{times} questions")

    def app(self) -> Starlette:
        routes = [Route("/oauth/token", self._token, methods=["POST"]), Route("/health", self._health)]
        return Starlette(routes=routes)

    async def _endless(self) -> AsyncIterator[bytes]:
        while True:
            yield b"x" * UNAUTHORIZED_LIMIT_BYTES
            # Lets the server notice that the client has disconnected.
            await asyncio.sleep(0)

    async def _token(self, _: Request) -> Response:
        self.asked += 1
        number = self.asked
        self._watch.changed()
        await self.gate.wait()
        return self.answer or JSONResponse({"access_token": f"token-{number}", "expires_in": self.expires_in})

    async def _health(self, request: Request) -> Response:
        token = request.headers["authorization"].removeprefix("Bearer ")
        self.seen.append(token)
        if self.all_there is not None and token in self.refused:
            await self.all_there.wait()
        refused = token in self.refused
        if refused and self.endless:
            return StreamingResponse(self._endless(), 401)
        return JSONResponse({"detail": "token expired"} if refused else {"status": "ok"}, 401 if refused else 200)


class Bench:
    def __init__(self, service: Service, api: CoordinatorApi, auth: TokenAuth, clock: Clock) -> None:
        self.service = service
        self.api = api
        self.auth = auth
        self.clock = clock

    async def renewed(self) -> None:
        """Return when no renewal is in progress."""
        if renewals := [task for task in asyncio.all_tasks() if task.get_name() == RENEWAL]:
            await asyncio.wait(renewals)


@asynccontextmanager
async def bench(redactor: Redactor | None = None) -> AsyncIterator[Bench]:
    service, clock = Service(), Clock()
    async with serving(service.app()) as url:
        on_token = (redactor or Redactor()).replace
        auth = TokenAuth(f"{url}/oauth/token", LOGIN, on_token=on_token, now=clock)
        try:
            async with CoordinatorApi(url, auth) as api:
                yield Bench(service, api, auth, clock)
        finally:
            service.gate.set()
            await auth.aclose()
    assert not any(task.get_name() == RENEWAL for task in asyncio.all_tasks())
