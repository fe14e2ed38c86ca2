"""The token that every call to the coordinator carries: one for the whole process. Contract: protocol.md, section 6."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable

import httpx
import msgspec
from loguru import logger

from fsm_runner.coordinator_client.errors import NoConnection, NotAuthenticated, Unreachable
from fsm_runner.coordinator_client.policy import (
    POLICIES,
    TOKEN_MARGIN_S,
    TOKEN_MARGIN_SHARE,
    TOKEN_REPLACE_INTERVAL_S,
    UNAUTHORIZED_LIMIT_BYTES,
)
from fsm_runner.coordinator_client.response_body import limit_body
from fsm_runner.coordinator_client.token_service import IssuedToken, TokenRequest, TokenService
from fsm_runner.util.retry import RetryPolicy, Waits

NOT_REGISTERED_TEXT = "Runner not registered"
"""The one 401 that is no matter of credentials (section 1.1)."""

OnToken = Callable[[str, str], None]
"""Told a token that is used no more (empty: none) and a new one, before the new one is used."""


class _Token(msgspec.Struct, frozen=True):
    """Times are of the monotonic clock, from when it was asked for: the clock of the token service does not matter."""

    text: str
    renew_at: float
    expires_at: float


def _nobody(old: str, new: str) -> None:
    pass


class TokenAuth(httpx.Auth):
    """Adds a bearer token to each request. Use `aclose` at the end.

    A token is renewed before it expires, and used until then; callers wait only where there is none. All of them share
    one renewal, a task of its own, and no new one begins before the policy's wait after a failure is over.
    """

    def __init__(
        self,
        token_url: str,
        request: TokenRequest,
        *,
        policy: RetryPolicy = POLICIES.token,
        on_token: OnToken = _nobody,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises `UsageError` where a proxy or certificate variable is no good."""
        self._service = TokenService(token_url, request)
        self._waits = Waits(policy)
        self._on_token = on_token
        self._now = now
        self._token: _Token | None = None
        self._latest = ("", "")
        """The token before and the present one: requests that carry the former may still be under way."""
        self._renewal: asyncio.Task[_Token | None] | None = None
        self._fault: Unreachable | NotAuthenticated | None = None
        """Of the last renewal."""
        self._is_said = False
        """Whether the log says that renewals fail."""
        self._ask_again_at = 0.0
        self._is_closed = False
        self._replaced_at: float | None = None
        """When a token was last given up since the coordinator refused it."""

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Raises `NoConnection` where the token service is away, `NotAuthenticated` where it says no."""
        token = await self._usable_token()
        request.headers["Authorization"] = f"Bearer {token}"
        answer = yield request
        if answer.status_code != httpx.codes.UNAUTHORIZED:
            return
        await limit_body(answer, UNAUTHORIZED_LIMIT_BYTES)
        # As bytes: the text of an answer depends on the character set that it names.
        if NOT_REGISTERED_TEXT.encode() not in await answer.aread() and self._may_be_replaced(token):
            request.headers["Authorization"] = f"Bearer {await self._usable_token()}"
            yield request

    @property
    def awaited_url(self) -> str:
        """The token service that calls wait for, because there is no valid token; empty if no call waits."""
        is_valid = self._token is not None and self._now() < self._token.expires_at
        is_renewed = self._renewal is not None and not self._renewal.done()
        return self._service.url if is_renewed and not is_valid else ""

    async def aclose(self) -> None:
        """End the renewal that is under way."""
        self._is_closed = True
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait([self._renewal])

    async def _usable_token(self) -> str:
        token = self._token
        now = self._now()
        if token is not None and now < token.expires_at:
            if now >= token.renew_at:
                self._renew_where_allowed()
            return token.text
        renewal = self._renew_where_allowed()
        if renewal is not None:
            # Who gives up waiting does not end it for the others.
            await asyncio.wait([renewal])
            # What it has brought is taken as it is: it may have taken longer than it lasts.
            if not renewal.cancelled() and (brought := renewal.result()) is not None:
                return brought.text
        raise self._reason()

    def _may_be_replaced(self, refused: str) -> bool:
        """The coordinator does not take it. Another one that has come meanwhile stays.

        False where the last one was replaced a moment ago: then it is not the token that is wrong, and each call would
        cost one more.
        """
        if self._token is not None and self._token.text == refused:
            now = self._now()
            if self._replaced_at is not None and now - self._replaced_at < TOKEN_REPLACE_INTERVAL_S:
                return False
            self._replaced_at = now
            self._token = None
        return True

    def _renew_where_allowed(self) -> asyncio.Task[_Token | None] | None:
        """The renewal that is under way, or a new one; None while the wait after a failure lasts."""
        if self._renewal is not None and not self._renewal.done():
            return self._renewal
        if self._is_closed or self._now() < self._ask_again_at:
            return None
        self._renewal = asyncio.create_task(self._renew(), name="token-renewal")
        return self._renewal

    async def _renew(self) -> _Token | None:
        """None where there is none; `_fault` says why."""
        asked_at = self._now()
        try:
            issued = await self._service.new_token()
        except (Unreachable, NotAuthenticated) as fault:
            self._failed(fault)
            return None
        self._token = self._succeeded(issued, asked_at)
        return self._token

    def _failed(self, fault: Unreachable | NotAuthenticated) -> None:
        # A refusal that somebody waits for is his to tell: it ends the start of a runner, or a command.
        if not self._is_said and (self._token is not None or isinstance(fault, Unreachable)):
            lasting = "; the present token is used until it expires" if self._token is not None else ""
            logger.warning("no new token, the token service is asked again by and by{}: {}", lasting, fault)
            self._is_said = True
        self._fault = fault
        self._ask_again_at = self._now() + self._waits.next_s()

    def _succeeded(self, issued: IssuedToken, asked_at: float) -> _Token:
        margin_s = min(TOKEN_MARGIN_S, issued.lifetime_s * TOKEN_MARGIN_SHARE)
        expires_at = asked_at + issued.lifetime_s
        before, present = self._latest
        self._on_token(before, issued.text)
        self._latest = (present, issued.text)
        if self._is_said:
            logger.info("there is a new token, the token service is back: {}", self._service.url)
        self._is_said = False
        self._fault = None
        self._ask_again_at = 0.0
        self._waits.reset()
        logger.debug("new token from {}, valid for {:.0f} s", self._service.url, issued.lifetime_s)
        return _Token(issued.text, expires_at - margin_s, expires_at)

    def _reason(self) -> NoConnection | NotAuthenticated:
        """Made anew for each caller: an exception keeps the way that it was raised on.

        Either way the coordinator has not acted on the call.
        """
        match self._fault:
            case NotAuthenticated() as fault:
                return NotAuthenticated(str(fault), fault.status)
            case None:
                return NoConnection(f"no token from {self._service.url}: the program ends")
            case fault:
                return NoConnection(f"no token: {fault}")
