"""The fields of a session's metadata by which an executor reports something about its run to the runner itself."""

from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from fsm_runner.protocol.wire import DECODE_FAULTS

Form = TypeVar("Form")
Encoded = TypeVar("Encoded", bound=bytes)

SHOWN_DETAIL_CHARS = 500
"""As much of a detail is kept."""


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a turn has cost. Each executor counts what it can."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_written_tokens: int | None = None
    cost_usd: float | None = None
    duration_s: float | None = None
    turns: int | None = None
    """As the executor counts them: of the model, as a rule, and not of the session."""

    def __str__(self) -> str:
        tokens = [(self.input_tokens, "tokens in"), (self.output_tokens, "out")]
        said = [f"{count:,} {what}" for count, what in tokens if count is not None]
        if self.cost_usd is not None:
            said.append(f"{self.cost_usd:.4f} USD")
        if self.turns is not None:
            said.append(f"{self.turns} {'turn' if self.turns == 1 else 'turns'}")
        return ", ".join(said)


class ExecutorStatus(msgspec.Struct, frozen=True):
    status_detail: str | None = None
    """What the run waits for, say: shown with its state."""
    usage: Usage | None = None


def take_executor_status(fields: dict[str, Encoded]) -> ExecutorStatus | None:
    """Remove the fields for the runner from a session's metadata (key to JSON value). None if there are none.

    A coordinator has no such fields. A field with one of these names and a value of another type stays, so that the
    coordinator decides about it.
    """
    detail, usage = _taken(fields, "status_detail", str), _taken(fields, "usage", Usage)
    if detail is UNSET and usage is UNSET:
        return None
    return ExecutorStatus(None if detail is UNSET else detail[:SHOWN_DETAIL_CHARS], None if usage is UNSET else usage)


def _taken(fields: dict[str, Encoded], key: str, form: type[Form]) -> Form | UnsetType:
    if key not in fields:
        return UNSET
    try:
        value = msgspec.json.decode(fields[key], type=form)
    except DECODE_FAULTS:
        return UNSET
    del fields[key]
    return value
