"""The fields of a session's metadata that are for the runner itself: status detail, usage and limit of a run."""

from typing import TypeVar

import msgspec

from fsm_runner.journal.records import MOST_USED
from fsm_runner.protocol.wire import DECODE_FAULTS
from fsm_runner.reporting.provider_limit import ProviderLimit, decode_provider_limit

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

    def plus(self, other: "Usage") -> "Usage":
        """Return the sum, in which a count is None if both have none."""
        counts = {
            name: (mine or 0) + (theirs or 0)
            for name, mine, theirs in zip(
                self.__struct_fields__, msgspec.structs.astuple(self), msgspec.structs.astuple(other), strict=True
            )
            if mine is not None or theirs is not None
        }
        return Usage(**counts)

    def limited(self) -> "Usage":
        """Return this usage with each count within 0 and `MOST_USED`, because an executor can report any number."""
        counts = zip(self.__struct_fields__, msgspec.structs.astuple(self), strict=True)
        return Usage(
            **{name: type(count)(max(0, min(count, MOST_USED))) for name, count in counts if count is not None}
        )


class ExecutorStatus(msgspec.Struct, frozen=True):
    status_detail: str | None = None
    """Shown with the run's state, for example what the run waits for."""
    usage: Usage | None = None
    """The sums of the turn so far."""
    limit: ProviderLimit | None = None
    """A limit of the provider that ends the turn."""


def take_executor_status(fields: dict[str, Encoded], session_id: str = "") -> ExecutorStatus | None:
    """Remove the runner's fields from a session's metadata (key to JSON value) and return them; None if there are none.

    A field with one of these names and a value of another form is left for the coordinator. A `limit` of null is
    removed and means nothing, because only the runner ends a limit. `session_id` names the session in the log.
    """
    before = len(fields)
    detail, usage = _taken(fields, "status_detail", str), _taken(fields, "usage", Usage)
    limit = _taken_limit(fields, session_id)
    if len(fields) == before:
        return None
    return ExecutorStatus(
        None if detail is None else detail[:DETAIL_LIMIT_CHARS], None if usage is None else usage.limited(), limit
    )


def _taken(fields: dict[str, Encoded], key: str, form: type[Form]) -> Form | None:
    if key not in fields:
        return None
    try:
        value = msgspec.json.decode(fields[key], type=form)
    except DECODE_FAULTS:
        return None
    del fields[key]
    return value


def _taken_limit(fields: dict[str, Encoded], session_id: str) -> ProviderLimit | None:
    if "limit" not in fields:
        return None
    limit = decode_provider_limit(fields["limit"], session_id)
    if limit is not None or bytes(fields["limit"]).strip() == b"null":
        del fields["limit"]
    return limit
