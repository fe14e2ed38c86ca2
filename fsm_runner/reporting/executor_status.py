"""The fields of a session's metadata that are for the runner itself: status detail and usage of a run."""

from typing import TypeVar

import msgspec

from fsm_runner.protocol.wire import DECODE_FAULTS

Form = TypeVar("Form")
Encoded = TypeVar("Encoded", bound=bytes)

DETAIL_LIMIT_CHARS = 500
"""A longer status detail is cut."""


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The cost of a turn. Each executor counts what it can."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_tokens: int | None = None
    cache_written_tokens: int | None = None
    cost_usd: float | None = None
    duration_s: float | None = None
    turns: int | None = None
    """As the executor counts them: usually turns of the model, not of the session."""

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
    """Shown with the run's state, for example what the run waits for."""
    usage: Usage | None = None


def take_executor_status(fields: dict[str, Encoded]) -> ExecutorStatus | None:
    """Remove the runner's fields from a session's metadata (key to JSON value) and return them; None if there are none.

    A field with one of these names and a value of another type is left for the coordinator.
    """
    detail, usage = _taken(fields, "status_detail", str), _taken(fields, "usage", Usage)
    if detail is None and usage is None:
        return None
    return ExecutorStatus(None if detail is None else detail[:DETAIL_LIMIT_CHARS], usage)


def _taken(fields: dict[str, Encoded], key: str, form: type[Form]) -> Form | None:
    if key not in fields:
        return None
    try:
        value = msgspec.json.decode(fields[key], type=form)
    except DECODE_FAULTS:
        return None
    del fields[key]
    return value
