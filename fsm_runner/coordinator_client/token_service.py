"""One question to a token service, and its answer or a fault. Contract: protocol.md, section 6."""

import re

import httpx
import msgspec

from fsm_runner.coordinator_client.errors import NotAuthenticated, Unreachable
from fsm_runner.coordinator_client.hints import Setting, proxy_hint, token_service_login_hint
from fsm_runner.coordinator_client.http_clients import ClientFactory, exchanged
from fsm_runner.coordinator_client.policy import RESPONSE_TIMEOUT_S, TOKEN_LIFETIME_LIMIT_S, TOKEN_RESPONSE_LIMIT_BYTES
from fsm_runner.coordinator_client.response import ApiResponse
from fsm_runner.protocol.statuses import TRANSIENT_HTTP_STATUSES
from fsm_runner.protocol.wire import DECODE_FAULTS

DOMAIN_SETTING = Setting("AUTH0_DOMAIN", owner="the token service", needs_tls=True)
_TOKEN = re.compile(r"[\x21-\x7e]+")
"""What a header can carry: visible ASCII, nothing else."""
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
    """Of a form that a header can carry."""

    text: str
    lifetime_s: float
    """Above 0, at most `TOKEN_LIFETIME_LIMIT_S`."""

    def __repr__(self) -> str:
        return f"IssuedToken(lifetime_s={self.lifetime_s!r})"


class _TokenAnswer(msgspec.Struct, frozen=True):
    access_token: str
    expires_in: float
    """Seconds."""


class _OAuthError(msgspec.Struct, frozen=True):
    """RFC 6749, section 5.2."""

    error: str = ""


class TokenService:
    """Asked with one login."""

    def __init__(self, url: str, request: TokenRequest) -> None:
        """Raises `UsageError` where a proxy or certificate variable is no good."""
        self.url = url
        self._body = msgspec.json.encode(request)
        self._new_client = ClientFactory(url, "token service", setting=DOMAIN_SETTING)

    async def new_token(self) -> IssuedToken:
        """Raises `Unreachable` where the service is away, `NotAuthenticated` where it says no; without secrets."""
        answer = await exchanged(
            self._new_client,
            "POST",
            self.url,
            self._body,
            limit_s=RESPONSE_TIMEOUT_S,
            limit_bytes=TOKEN_RESPONSE_LIMIT_BYTES,
        )
        said = f"{answer.call}: HTTP {answer.status}"
        if (hint := _login_hint(answer)) != "":
            raise NotAuthenticated(said + hint, answer.status)
        if _is_refusal(answer):
            raise NotAuthenticated(
                f"{said}{_error_code(answer)}: the token service of AUTH0_DOMAIN does not accept "
                "AUTH0_RUNNER_CLIENT_ID and AUTH0_RUNNER_CLIENT_SECRET for AUTH0_AUDIENCE: correct these variables",
                answer.status,
            )
        if not httpx.codes.is_success(answer.status):
            raise Unreachable(said + proxy_hint(answer.status, self._new_client.proxy, answer.challenge))
        try:
            token = msgspec.json.decode(answer.body, type=_TokenAnswer)
        except DECODE_FAULTS as defect:
            raise Unreachable(f"{said}: not a token: {_without_values(defect)}") from None
        if not _TOKEN.fullmatch(token.access_token):
            raise Unreachable(f"{said}: not a token: access_token is empty or has characters that no header takes")
        if not token.expires_in > 0:
            raise Unreachable(f"{said}: not a token: expires_in is {token.expires_in:g}, not above 0")
        return IssuedToken(token.access_token, min(token.expires_in, TOKEN_LIFETIME_LIMIT_S))


def _login_hint(answer: ApiResponse) -> str:
    """What to do if a proxy in front of the token service asks for a login; empty if none does. The service itself
    sends an OAuth error."""
    is_asked = answer.status == httpx.codes.UNAUTHORIZED and _error_code(answer) == ""
    return token_service_login_hint(answer.challenge) if is_asked else ""


def _is_refusal(answer: ApiResponse) -> bool:
    """What is in front of the service while it is away gives pages, the service itself gives JSON."""
    if answer.status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        return True
    is_final = httpx.codes.is_client_error(answer.status) and answer.status not in TRANSIENT_HTTP_STATUSES
    return is_final and _error_of(answer) is not None


def _error_of(answer: ApiResponse) -> _OAuthError | None:
    try:
        return msgspec.json.decode(answer.body, type=_OAuthError)
    except DECODE_FAULTS:
        return None


def _error_code(answer: ApiResponse) -> str:
    """Only where it is a code: a text may repeat what was sent."""
    error = _error_of(answer)
    return f" ({error.error})" if error is not None and _ERROR_CODE.fullmatch(error.error) else ""


def _without_values(defect: Exception) -> str:
    """msgspec names types and paths, never values; Python's own errors may quote what they have read."""
    return str(defect) if isinstance(defect, msgspec.DecodeError) else type(defect).__name__
