"""Who calls: the context headers of a request (protocol.md, section 4)."""

from collections.abc import Iterable

import msgspec

from fsm_runner.mcp_server.errors import ToolFailure
from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.wire import DECODE_FAULTS, JsonObject

SESSION_HEADER = "X-Agent-Session-Id"
TAGS_HEADER = "X-Agent-Tags"
DEMANDS_HEADER = "X-Additional-Demands"


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    session_id: str | None = None
    """The calling session, which becomes the parent of those that it starts."""
    tags: tuple[str, ...] = ()
    """Only agents that have all of these are offered."""
    demands_text: str = ""
    """JSON, not looked at yet: only those who start something have to hear that it is none."""

    @property
    def additional_demands(self) -> JsonObject | None:
        """Raises `ToolFailure` where the header holds no JSON object."""
        if not self.demands_text:
            return None
        try:
            return decode_json(self.demands_text, JsonObject)
        except DECODE_FAULTS as defect:
            raise ToolFailure(f"The header {DEMANDS_HEADER} of this connection is no JSON object: {defect}") from None


def caller_of(headers: Iterable[tuple[bytes, bytes]]) -> Caller:
    """`headers` as they came: names in lower case, values as bytes. Empty ones count as absent."""
    values = dict(headers)
    return Caller(
        session_id=_text(values, SESSION_HEADER) or None,
        tags=tuple(tag for part in _text(values, TAGS_HEADER).split(",") if (tag := part.strip())),
        demands_text=_text(values, DEMANDS_HEADER),
    )


def _text(values: dict[bytes, bytes], name: str) -> str:
    """As UTF-8, which clients send, or else as Latin-1, which HTTP once said."""
    value = values.get(name.lower().encode(), b"")
    try:
        return value.decode().strip()
    except UnicodeDecodeError:
        return value.decode("latin-1").strip()
