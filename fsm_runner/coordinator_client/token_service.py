"""A token request to the token service. Contract: protocol.md, section 6."""

import re

import httpx
import msgspec

from fsm_runner.config.settings import TokenRequest
from fsm_runner.coordinator_client.errors import NotAuthenticated, Unreachable
from fsm_runner.coordinator_client.hints import UrlSetting, proxy_hint, token_service_login_hint
from fsm_runner.coordinator_client.http_clients import ClientFactory
from fsm_runner.coordinator_client.policy import RESPONSE_TIMEOUT_S, TOKEN_LIFETIME_LIMIT_S, TOKEN_RESPONSE_LIMIT_BYTES
from fsm_runner.protocol.statuses import TRANSIENT_HTTP_STATUSES
from fsm_runner.protocol.wire import DECODE_FAULTS

DOMAIN_SETTING = UrlSetting("AUTH0_DOMAIN", owner="the token service", needs_tls=True)
_TOKEN = re.compile(r"[\x21-\x7e]+")
"""The characters that a header accepts: visible ASCII."""
_ERROR_CODE = re.compile(r"[a-z_]{1,40}")


class _TokenResponse(msgspec.Struct, frozen=True):
    access_token: str
    expires_in: float
    """Seconds."""


class _OAuthError(msgspec.Struct, frozen=True):
    """RFC 6749, section 5.2."""

    error: str = ""


class TokenService:
    def __init__(self, url: str, request: TokenRequest) -> None:
        """Raises `UsageError` if a proxy or certificate variable is invalid."""
        self.url = url
        self._body = msgspec.json.encode(request)
        self._new_client = ClientFactory(url, "token service", setting=DOMAIN_SETTING)

    async def new_token(self) -> tuple[str, float]:
        """Return a token that a header accepts, and its lifetime in seconds (at most `TOKEN_LIFETIME_LIMIT_S`).

        Raises `Unreachable`, or `NotAuthenticated` if the service rejects the login. No error text has secrets.
        """
        response = await self._new_client.single_call(
            "POST", self._body, timeout_s=RESPONSE_TIMEOUT_S, limit_bytes=TOKEN_RESPONSE_LIMIT_BYTES
        )
        call, status = f"{response.call}: HTTP {response.status}", response.status
        # The service sends its errors as JSON. A proxy in front of it sends pages.
        error = _oauth_error(response.body)
        # Other text is left out, because it may repeat the request.
        code = f" ({error.error})" if error is not None and _ERROR_CODE.fullmatch(error.error) else ""
        if status == httpx.codes.UNAUTHORIZED and not code and (hint := token_service_login_hint(response.challenge)):
            raise NotAuthenticated(call + hint, status)
        is_final = httpx.codes.is_client_error(status) and status not in TRANSIENT_HTTP_STATUSES
        if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN} or (is_final and error is not None):
            raise NotAuthenticated(
                f"{call}{code}: the token service of AUTH0_DOMAIN does not accept AUTH0_RUNNER_CLIENT_ID and "
                "AUTH0_RUNNER_CLIENT_SECRET for AUTH0_AUDIENCE: correct these variables",
                status,
            )
        if not httpx.codes.is_success(status):
            raise Unreachable(call + proxy_hint(status, self._new_client.proxy, response.challenge))
        try:
            token = msgspec.json.decode(response.body, type=_TokenResponse)
        except DECODE_FAULTS as defect:
            # msgspec names types and paths. Errors of Python may quote the input.
            reason = str(defect) if isinstance(defect, msgspec.DecodeError) else type(defect).__name__
            raise Unreachable(f"{call}: not a token: {reason}") from None
        if not _TOKEN.fullmatch(token.access_token):
            raise Unreachable(f"{call}: not a token: access_token is empty or has characters that no header takes")
        if not token.expires_in > 0:
            raise Unreachable(f"{call}: not a token: expires_in is {token.expires_in:g}, not above 0")
        return token.access_token, min(token.expires_in, TOKEN_LIFETIME_LIMIT_S)


def _oauth_error(body: bytes) -> _OAuthError | None:
    try:
        return msgspec.json.decode(body, type=_OAuthError)
    except DECODE_FAULTS:
        return None
