"""The bearer token of all calls to the coordinator, one for the whole process. Contract: protocol.md, section 6."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable

import httpx
import msgspec
from loguru import logger

from fsm_runner.config.settings import TokenRequest
from fsm_runner.coordinator_client import policy
from fsm_runner.coordinator_client.errors import NoConnection, NotAuthenticated, Unreachable
from fsm_runner.coordinator_client.response_body import limit_body
from fsm_runner.coordinator_client.token_service import TokenService
from fsm_runner.util.retry import RetryPolicy, Waits

NOT_REGISTERED_TEXT = "Runner not registered"
"""The text of the only 401 that does not concern credentials (section 1.1)."""

OnToken = Callable[[str, str], None]
"""Called with a token that is no longer used (empty: none) and its successor, before that is used."""


class _Token(msgspec.Struct, frozen=True):
    """Times are of the monotonic clock, counted from the request: the clock of the token service does not matter."""

    text: str
    renew_at: float
    expires_at: float


class TokenAuth(httpx.Auth):
    """Adds a bearer token to each request. The owner calls `aclose` at the end.

    A token is renewed before it expires and stays in use until then, so callers wait only without a valid token. All
    callers share one renewal task. After a failure the next renewal begins after the wait of the retry policy.
    """

    def __init__(
        self,
        token_url: str,
        request: TokenRequest,
        *,
        policy: RetryPolicy = policy.POLICIES.token,
        on_token: OnToken = lambda _old, _new: None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises `UsageError` if a proxy or certificate variable is invalid."""
        self._service = TokenService(token_url, request)
        self._waits = Waits(policy)
        self._on_token = on_token
        self._now = now
        self._token: _Token | None = None
        self._latest = ("", "")
        """The previous and the current token: requests with the previous one may still be in flight."""
        self._renewal: asyncio.Task[_Token | None] | None = None
        self._error: Unreachable | NotAuthenticated | None = None
        """The error of the last renewal."""
        self._is_failure_logged = False
        """Whether the current series of failures has been logged. Not a state: it only limits the log."""
        self._next_renewal_at = 0.0
        self._is_closed = False
        self._replaced_at: float | None = None
        """The time of the last replacement of a token that the coordinator rejected."""

    async def async_auth_flow(self, request: httpx.Request) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Raises `NoConnection` if the token service is unreachable, `NotAuthenticated` if it rejects the login."""
        token = await self._usable_token()
        request.headers["Authorization"] = f"Bearer {token}"
        response = yield request
        if response.status_code != httpx.codes.UNAUTHORIZED:
            return
        await limit_body(response, policy.UNAUTHORIZED_LIMIT_BYTES)
        # Compared as bytes, because decoding would use the character set that the response names.
        if NOT_REGISTERED_TEXT.encode() not in await response.aread() and self._may_be_replaced(token):
            request.headers["Authorization"] = f"Bearer {await self._usable_token()}"
            yield request

    @property
    def awaited_url(self) -> str:
        """The URL of the token service while calls wait for a token; else empty."""
        is_valid = self._token is not None and self._now() < self._token.expires_at
        is_renewed = self._renewal is not None and not self._renewal.done()
        return self._service.url if is_renewed and not is_valid else ""

    async def aclose(self) -> None:
        self._is_closed = True
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait([self._renewal])

    async def _usable_token(self) -> str:
        token, now = self._token, self._now()
        if token is not None and now < token.expires_at:
            if now >= token.renew_at:
                self._renewal_if_due()
            return token.text
        if (renewal := self._renewal_if_due()) is not None:
            # Cancelling one caller does not cancel the renewal for the others.
            await asyncio.wait([renewal])
            # The new token is used even if the renewal took longer than the token's lifetime.
            if not renewal.cancelled() and (renewed := renewal.result()) is not None:
                return renewed.text
        raise self._reason()

    def _may_be_replaced(self, rejected: str) -> bool:
        """Discard a token that the coordinator rejected, unless it was replaced meanwhile. Return whether to try again.

        False if the last token was replaced a moment ago: then the token is not the cause, and each call would request
        another one.
        """
        if self._token is not None and self._token.text == rejected:
            now = self._now()
            if self._replaced_at is not None and now - self._replaced_at < policy.TOKEN_REPLACE_INTERVAL_S:
                return False
            self._replaced_at = now
            self._token = None
        return True

    def _renewal_if_due(self) -> asyncio.Task[_Token | None] | None:
        """Return the current renewal or begin one; None during the wait after a failure."""
        if self._renewal is not None and not self._renewal.done():
            return self._renewal
        if self._is_closed or self._now() < self._next_renewal_at:
            return None
        self._renewal = asyncio.create_task(self._renew(), name="token-renewal")
        return self._renewal

    async def _renew(self) -> _Token | None:
        """Return the new token; None after a failure, which is in `_error`."""
        requested_at = self._now()
        try:
            text, lifetime_s = await self._service.new_token()
        except (Unreachable, NotAuthenticated) as error:
            # Without a token, a rejection is raised to the waiting callers, where it ends a start or a command.
            if not self._is_failure_logged and (self._token is not None or isinstance(error, Unreachable)):
                until = "; the current token is used until it expires" if self._token is not None else ""
                logger.warning("token renewal failed, retrying{}: {}", until, error)
                self._is_failure_logged = True
            self._error = error
            self._next_renewal_at = self._now() + self._waits.next_s()
            return None
        previous, current = self._latest
        self._on_token(previous, text)
        self._latest = (current, text)
        if self._is_failure_logged:
            logger.info("token renewal works again: {}", self._service.url)
        self._is_failure_logged = False
        self._error = None
        self._next_renewal_at = 0.0
        self._waits.reset()
        logger.debug("new token from {}, valid for {:.0f} s", self._service.url, lifetime_s)
        margin_s = min(policy.TOKEN_MARGIN_S, lifetime_s * policy.TOKEN_MARGIN_SHARE)
        expires_at = requested_at + lifetime_s
        self._token = _Token(text, expires_at - margin_s, expires_at)
        return self._token

    def _reason(self) -> NoConnection | NotAuthenticated:
        """Return a new exception for each unsent call, because one exception would collect the tracebacks of all."""
        match self._error:
            case NotAuthenticated() as error:
                return NotAuthenticated(str(error), error.status)
            case None:
                return NoConnection(f"no token from {self._service.url}: the program is shutting down")
            case error:
                return NoConnection(f"no token: {error}")
