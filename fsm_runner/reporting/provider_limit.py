"""A limit of a provider, such as a quota of a model, that an executor reports (protocol.md, section 2.3)."""

from datetime import UTC, datetime
from typing import Literal, cast, get_args

import msgspec
from loguru import logger

from fsm_runner.protocol.wire import DECODE_FAULTS
from fsm_runner.util.text import excerpt

KIND_LIMIT_CHARS = 100
"""A longer kind is cut."""
MESSAGE_LIMIT_CHARS = 500
"""A longer message is cut."""
TIME_LIMIT_CHARS = 100
"""A longer text is not a time."""
SHOWN_LIMIT_BYTES = 1_000

LimitScope = Literal["credential", "session"]
DEFAULT_SCOPE: LimitScope = "credential"


class ProviderLimit(msgspec.Struct, frozen=True, kw_only=True):
    kind: str
    """The provider's name of the limit, for example `five_hour`. Not empty."""
    resets_at: str | None = None
    """ISO 8601 with an offset; `decode_provider_limit` gives UTC with `Z`. None if the time is unknown."""
    scope: LimitScope = DEFAULT_SCOPE
    """`credential`: the limit concerns all runs with the same credential. `session`: only this session."""
    message: str = ""
    """For people, in the provider's words."""

    @property
    def is_of_credential(self) -> bool:
        return self.scope == "credential"

    @property
    def resets_at_s(self) -> float | None:
        """The time of the reset in Unix seconds. None if it is unknown."""
        moment = None if self.resets_at is None else _moment(self.resets_at)
        return None if moment is None else moment.timestamp()

    def __str__(self) -> str:
        moment = None if self.resets_at is None else _moment(self.resets_at)
        if moment is None:
            return f"the limit {self.kind} is reached; the time of its reset is unknown"
        time = moment.replace(tzinfo=None).isoformat(" ", "seconds")
        return f"the limit {self.kind} is reached; it resets at {time} UTC"


def decode_provider_limit(data: bytes, session_id: str = "") -> ProviderLimit | None:
    """Decode a limit leniently; None if the JSON is no object, or its `kind` is no text or is empty.

    An unknown scope counts as `credential`, and a message that is no text as empty. A `resets_at` that is not a time
    counts as absent. That is logged, and so is a value that is no limit, except null. `session_id` names the session in
    the log.
    """
    try:
        fields = msgspec.json.decode(data, type=dict[str, msgspec.Raw] | None)
    except DECODE_FAULTS:
        warn_of_value(session_id, "the reported limit is no JSON object and is ignored", data)
        return None
    if fields is None:
        return None
    kind = excerpt(_text(fields, "kind"), KIND_LIMIT_CHARS)
    if not kind:
        defect = "has a `kind` that is empty or no text" if "kind" in fields else "has no `kind`"
        warn_of_value(session_id, f"the reported limit {defect}, so it is ignored", data)
        return None
    scope = _text(fields, "scope")
    return ProviderLimit(
        kind=kind,
        resets_at=_resets_at(fields, kind, session_id),
        scope=cast(LimitScope, scope) if scope in get_args(LimitScope) else DEFAULT_SCOPE,
        message=excerpt(_text(fields, "message"), MESSAGE_LIMIT_CHARS),
    )


def warn_of_value(session_id: str, problem: str, value: bytes) -> None:
    """Log that a value which the executor of a session has reported is ignored. A long value is shortened."""
    subject = f"{session_id}: " if session_id else ""
    logger.warning("{}{}: {}", subject, problem, excerpt(bytes(value)[:SHOWN_LIMIT_BYTES].decode(errors="replace")))


def _resets_at(fields: dict[str, msgspec.Raw], kind: str, session_id: str) -> str | None:
    value = bytes(fields.get("resets_at", b"null")).strip()
    if value == b"null":
        return None
    moment = _moment(_text(fields, "resets_at"))
    if moment is None:
        warn_of_value(session_id, f"the limit {kind} has a resets_at that is no time, which is ignored", value)
        return None
    return moment.isoformat().replace("+00:00", "Z")


def _text(fields: dict[str, msgspec.Raw], key: str) -> str:
    """Return the value of the key; empty if there is none or it is no text."""
    try:
        return msgspec.json.decode(fields.get(key, b'""'), type=str)
    except DECODE_FAULTS:
        return ""


def _moment(text: str) -> datetime | None:
    """Return the time in UTC, which a text without an offset is in. None if it is no time of the years 1 to 9999."""
    if len(text) > TIME_LIMIT_CHARS:
        return None
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
