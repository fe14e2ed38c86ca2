"""What an executor says of its run beside the events: fields of its metadata that the runner keeps too."""

from collections.abc import Mapping
from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from fsm_runner.coordinator.wire import DECODE_FAULTS

Form = TypeVar("Form")

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


class Notes(msgspec.Struct, frozen=True):
    status_detail: str | None = None
    """What the run waits for, say: shown with its state."""
    usage: Usage | None = None


def notes_in(fields: Mapping[str, bytes]) -> Notes | None:
    """Of a session's metadata, by key as JSON; None where there is nothing for the runner. What has another form is
    the coordinator's to judge."""
    detail, usage = _decoded(fields, "status_detail", str), _decoded(fields, "usage", Usage)
    if detail is UNSET and usage is UNSET:
        return None
    return Notes(None if detail is UNSET else detail[:SHOWN_DETAIL_CHARS], None if usage is UNSET else usage)


def _decoded(fields: Mapping[str, bytes], key: str, form: type[Form]) -> Form | UnsetType:
    try:
        return msgspec.json.decode(fields[key], type=form) if key in fields else UNSET
    except DECODE_FAULTS:
        return UNSET
