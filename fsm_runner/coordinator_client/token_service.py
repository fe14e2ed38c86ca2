"""A token request to the token service. Contract: protocol.md, section 6."""

import re

import httpx
import msgspec

from fsm_runner.coordinator_client.errors import NotAuthenticated, Unreachable
from fsm_runner.coordinator_client.hints import UrlSetting, proxy_hint, token_service_login_hint
from fsm_runner.coordinator_client.http_clients import ClientFactory, single_call
from fsm_runner.coordinator_client.policy import RESPONSE_TIMEOUT_S, TOKEN_LIFETIME_LIMIT_S, TOKEN_RESPONSE_LIMIT_BYTES
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.protocol.statuses import TRANSIENT_HTTP_STATUSES
from fsm_runner.protocol.wire import DECODE_FAULTS

DOMAIN_SETTING = UrlSetting("AUTH0_DOMAIN", owner="the token service", needs_tls=True)
_TOKEN = re.compile(r"[\x21-\x7e]+")
"""The characters that a header accepts: visible ASCII."""
_ERROR_CODE = re.compile(r"[a-z_]{1,40}")


class TokenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /oauth/token`."""

    client_id: str
    client_secret: str
    audience: str
    grant_type: str = "client_credentials"

    def __repr__(self) -> str:
        return f"TokenRequest(client_id={self.client_id!r}, audience={self.audience!r})"


class IssuedToken(msgspec.Struct, frozen=True):
    """A token that a header accepts."""

    text: str
    lifetime_s: float
    """Above 0, at most `TOKEN_LIFETIME_LIMIT_S`."""

    def __repr__(self) -> str:
        return f"IssuedToken(lifetime_s={self.lifetime_s!r})"


class _TokenResponse(msgspec.Struct, frozen=True):
    access_token: str
    expires_in: float
    """Seconds."""


class _OAuthError(msgspec.Struct, frozen=True):
    """RFC 6749, section 5.2."""

    error: str = ""


class TokenService:
    """The token service, with one login."""

    def __init__(self, url: str, request: TokenRequest) -> None:
        """Raises `UsageError` if a proxy or certificate variable is invalid."""
        self.url = url
        self._body = msgspec.json.encode(request)
        self._new_client = ClientFactory(url, "token service", setting=DOMAIN_SETTING)

    async def new_token(self) -> IssuedToken:
        """Raises `Unreachable`, or `NotAuthenticated` if the service rejects the login. No error text has secrets."""
        response = await single_call(
            self._new_client,
            "POST",
            self.url,
            self._body,
            timeout_s=RESPONSE_TIMEOUT_S,
            limit_bytes=TOKEN_RESPONSE_LIMIT_BYTES,
        )
        call = f"{response.call}: HTTP {response.status}"
        if (hint := _login_hint(response)) != "":
            raise NotAuthenticated(call + hint, response.status)
        if _is_refusal(response):
            raise NotAuthenticated(
                f"{call}{_error_code(response)}: the token service of AUTH0_DOMAIN does not accept "
                "AUTH0_RUNNER_CLIENT_ID and AUTH0_RUNNER_CLIENT_SECRET for AUTH0_AUDIENCE: correct these variables",
                response.status,
            )
        if not httpx.codes.is_success(response.status):
            raise Unreachable(call + proxy_hint(response.status, self._new_client.proxy, response.challenge))
        try:
            token = msgspec.json.decode(response.body, type=_TokenResponse)
        except DECODE_FAULTS as error:
            raise Unreachable(f"{call}: not a token: {_without_values(error)}") from None
        if not _TOKEN.fullmatch(token.access_token):
            raise Unreachable(f"{call}: not a token: access_token is empty or has characters that no header takes")
        if not token.expires_in > 0:
            raise Unreachable(f"{call}: not a token: expires_in is {token.expires_in:g}, not above 0")
        return IssuedToken(token.access_token, min(token.expires_in, TOKEN_LIFETIME_LIMIT_S))


def _login_hint(response: ApiResponse) -> str:
    """Return a hint if a proxy before the token service asks for a login. The service itself sends an OAuth error."""
    is_asked = response.status == httpx.codes.UNAUTHORIZED and _error_code(response) == ""
    return token_service_login_hint(response.challenge) if is_asked else ""


def _is_refusal(response: ApiResponse) -> bool:
    """Return whether the service rejects the login. A proxy in front of it sends pages, the service sends JSON."""
    if response.status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        return True
    is_final = httpx.codes.is_client_error(response.status) and response.status not in TRANSIENT_HTTP_STATUSES
    return is_final and _error_of(response) is not None


def _error_of(response: ApiResponse) -> _OAuthError | None:
    try:
        return msgspec.json.decode(response.body, type=_OAuthError)
    except DECODE_FAULTS:
        return None


def _error_code(response: ApiResponse) -> str:
    """Return the OAuth error code. Other text is left out, because it may repeat the request."""
    error = _error_of(response)
    return f" ({error.error})" if error is not None and _ERROR_CODE.fullmatch(error.error) else ""


def _without_values(error: Exception) -> str:
    """Return the error text without values. msgspec names types and paths; errors of Python may quote the input."""
    return str(error) if isinstance(error, msgspec.DecodeError) else type(error).__name__
