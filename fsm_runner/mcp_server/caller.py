"""Which session a request comes from: the address of each session, and the context headers (protocol.md, section 4)."""

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable

import msgspec

from fsm_runner.mcp_server.results import ToolFailure
from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.wire import DECODE_FAULTS, JsonObject

PATH = "/mcp"
KEY_BYTES = 32

SESSION_HEADER = "X-Agent-Session-Id"
TAGS_HEADER = "X-Agent-Tags"
DEMANDS_HEADER = "X-Additional-Demands"


class Addresses:
    """One path for each session, signed with a key of this server, so that none has to be stored.

    A request to a session's path comes from that session, whatever its headers say.
    """

    def __init__(self, *, open_to_all: bool) -> None:
        """`open_to_all` permits the bare `PATH`, whose callers are identified by their headers."""
        self.open_to_all = open_to_all
        self._key = secrets.token_bytes(KEY_BYTES)

    def path_of(self, session_id: str) -> str:
        session = session_id.encode(errors="surrogatepass")
        return f"{PATH}/{_base64(session)}.{_base64(self._signature(session))}"

    def session_of(self, path: str) -> str | None:
        """Return the session's id, or None if this server did not sign the path."""
        name, _, signature = path.removeprefix(f"{PATH}/").partition(".")
        try:
            session, signed = _decoded_base64(name), _decoded_base64(signature)
        except (binascii.Error, ValueError):
            return None
        if not hmac.compare_digest(signed, self._signature(session)):
            return None
        return session.decode(errors="surrogatepass")

    def _signature(self, session: bytes) -> bytes:
        return hmac.digest(self._key, session, hashlib.sha256)


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    session_id: str | None = None
    """The calling session. It becomes the parent of the sessions that it starts."""
    tags: tuple[str, ...] = ()
    """The caller sees only agents that have all of these tags."""
    demands_text: str = ""
    """The demands header, undecoded: a broken one must fail only the tools that use it."""

    @property
    def additional_demands(self) -> JsonObject | None:
        """Decode the header. Raises `ToolFailure` if it is not a JSON object."""
        if not self.demands_text:
            return None
        try:
            return decode_json(self.demands_text, JsonObject)
        except DECODE_FAULTS as defect:
            raise ToolFailure(f"The header {DEMANDS_HEADER} is not a JSON object: {defect}") from None


def caller_of(headers: Iterable[tuple[bytes, bytes]]) -> Caller:
    """Return the caller that ASGI headers (names in lower case) describe. Empty values count as absent."""
    values = dict(headers)
    return Caller(
        session_id=_text(values, SESSION_HEADER) or None,
        tags=tuple(tag for part in _text(values, TAGS_HEADER).split(",") if (tag := part.strip())),
        demands_text=_text(values, DEMANDS_HEADER),
    )


def _text(values: dict[bytes, bytes], name: str) -> str:
    """Decode a value as UTF-8, which clients send, or else as Latin-1, the former encoding of HTTP headers."""
    value = values.get(name.lower().encode(), b"")
    try:
        return value.decode().strip()
    except UnicodeDecodeError:
        return value.decode("latin-1").strip()


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _decoded_base64(text: str) -> bytes:
    """Raises `ValueError`."""
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
