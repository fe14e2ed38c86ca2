"""Auth0 machine-to-machine credentials for every call to the coordinator. Contract: protocol.md, section 6."""

import asyncio
import time
from collections.abc import AsyncGenerator

import httpx
import msgspec
from loguru import logger

from fsm_runner.coordinator.faults import NotAuthenticated, Unreachable
from fsm_runner.coordinator.policy import ANSWER_LIMIT_S, CONNECT_LIMIT_S, TOKEN_MARGIN_S
from fsm_runner.coordinator.reading import bound
from fsm_runner.coordinator.wire import DECODE_FAULTS

NOT_REGISTERED_TEXT = "Runner not registered"
"""The one 401 that is no matter of credentials (section 1.1)."""


class TokenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /oauth/token`."""

    client_id: str
    client_secret: str
    audience: str
    grant_type: str = "client_credentials"


class _TokenAnswer(msgspec.Struct, frozen=True):
    access_token: str
    expires_in: float
    """Seconds."""


class TokenAuth(httpx.Auth):
    """Adds a bearer token to each request; callers at the same time share one renewal."""

    def __init__(self, token_url: str, request: TokenRequest) -> None:
        self._token_url = token_url
        self._request = request
        self._token = ""
        self._renew_at = 0.0
        self._renewal = asyncio.Lock()

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Raises `Unreachable` where the token service is away, `NotAuthenticated` where it says no."""
        token = await self._valid_token()
        request.headers["Authorization"] = f"Bearer {token}"
        answer = yield request
        if answer.status_code != httpx.codes.UNAUTHORIZED:
            return
        await bound(answer)
        # As bytes: the text of an answer depends on the character set that it names.
        if NOT_REGISTERED_TEXT.encode() not in await answer.aread():
            request.headers["Authorization"] = f"Bearer {await self._valid_token(instead_of=token)}"
            yield request

    async def _valid_token(self, instead_of: str | None = None) -> str:
        async with self._renewal:
            if self._token == instead_of or time.monotonic() >= self._renew_at:
                answer = await self._fetch()
                self._token = answer.access_token
                self._renew_at = time.monotonic() + max(0.0, answer.expires_in - TOKEN_MARGIN_S)
                logger.debug("new token from {}, valid for {:.0f} s", self._token_url, answer.expires_in)
            return self._token

    async def _fetch(self) -> _TokenAnswer:
        limits = httpx.Timeout(ANSWER_LIMIT_S, connect=CONNECT_LIMIT_S)
        headers = {"content-type": "application/json"}
        try:
            async with httpx.AsyncClient(timeout=limits) as http:
                answer = await http.post(self._token_url, content=msgspec.json.encode(self._request), headers=headers)
        except httpx.HTTPError as fault:
            raise Unreachable(f"POST {self._token_url}: {str(fault) or type(fault).__name__}") from fault
        if httpx.codes.is_client_error(answer.status_code) and answer.status_code != httpx.codes.TOO_MANY_REQUESTS:
            raise NotAuthenticated(
                f"POST {self._token_url}: HTTP {answer.status_code}: the token service does not accept "
                "AUTH0_RUNNER_CLIENT_ID and AUTH0_RUNNER_CLIENT_SECRET for AUTH0_AUDIENCE",
                answer.status_code,
            )
        if not answer.is_success:
            raise Unreachable(f"POST {self._token_url}: HTTP {answer.status_code}")
        try:
            return msgspec.json.decode(answer.content, type=_TokenAnswer)
        except DECODE_FAULTS as defect:
            raise Unreachable(f"POST {self._token_url}: HTTP {answer.status_code}: not a token: {defect}") from defect
