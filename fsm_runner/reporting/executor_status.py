"""The fields of a session's metadata that are for the runner itself: status detail, usage and limit of a run."""

import math
from typing import TypeVar

import msgspec

from fsm_runner.journal.records import MOST_USED
from fsm_runner.protocol.wire import DECODE_FAULTS
from fsm_runner.reporting.provider_limit import ProviderLimit, decode_provider_limit, warn_of_value

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
        """Return the counts for people. Never empty."""
        counts = [(self.input_tokens, "in"), (self.output_tokens, "out")]
        counts += [(self.cache_read_tokens or None, "from cache"), (self.cache_written_tokens or None, "to cache")]
        counted = [(count, what) for count, what in counts if count is not None]
        said = [f"{count:,} {'' if index else 'tokens '}{what}" for index, (count, what) in enumerate(counted)]
        if self.cost_usd is not None:
            said.append(f"{self.cost_usd:.4f} USD")
        if self.turns is not None:
            said.append(f"{self.turns} {'turn' if self.turns == 1 else 'turns'}")
        return ", ".join(said) or "no tokens"

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


_COUNTS = frozenset(Usage.__struct_fields__) - {"cost_usd", "duration_s"}
"""The fields that are integers."""


class ExecutorStatus(msgspec.Struct, frozen=True):
    status_detail: str | None = None
    """Shown with the run's state, for example what the run waits for."""
    usage: Usage | None = None
    """The sums of the turn so far."""
    limit: ProviderLimit | None = None
    """A limit of the provider that ends the turn."""


def take_executor_status(fields: dict[str, Encoded], session_id: str = "") -> ExecutorStatus | None:
    """Remove the runner's fields from a session's metadata (key to JSON value) and return them; None if there are none.

    A field with one of these names and a value of another form is left for the coordinator, as is a `usage` without a
    single number. A `limit` of null is removed and means nothing, because only the runner ends a limit. The numbers of
    a `usage` are decoded one by one: each is within 0 and `MOST_USED`, and a fraction of a token or turn is rounded up.
    Values of `usage` and `limit` that are ignored are logged; `session_id` names the session in the log.
    """
    before = len(fields)
    detail, usage = _taken_detail(fields), _taken_usage(fields, session_id)
    limit = _taken_limit(fields, session_id)
    if len(fields) == before:
        return None
    return ExecutorStatus(detail, usage, limit)


def _taken_detail(fields: dict[str, Encoded]) -> str | None:
    if "status_detail" not in fields:
        return None
    try:
        detail = msgspec.json.decode(fields["status_detail"], type=str)
    except DECODE_FAULTS:
        return None
    del fields["status_detail"]
    return detail[:DETAIL_LIMIT_CHARS]


def _taken_usage(fields: dict[str, Encoded], session_id: str) -> Usage | None:
    if "usage" not in fields or _is_null(fields["usage"]):
        return None
    try:
        reported = msgspec.json.decode(fields["usage"], type=dict[str, msgspec.Raw])
    except DECODE_FAULTS:
        warn_of_value(session_id, "usage is no JSON object and is ignored", fields["usage"])
        return None
    numbers: dict[str, int | float] = {}
    for name in Usage.__struct_fields__:
        if name not in reported or _is_null(reported[name]):
            continue
        try:
            number = msgspec.json.decode(reported[name], type=int | float)
        except DECODE_FAULTS:
            warn_of_value(session_id, f"{name} of usage is no number and is ignored", reported[name])
            continue
        number = max(0, min(number, MOST_USED))
        numbers[name] = math.ceil(number) if name in _COUNTS else float(number)
    if not numbers:
        warn_of_value(
            session_id, "usage has none of the numbers that the runner counts, and is ignored", fields["usage"]
        )
        return None
    del fields["usage"]
    return msgspec.convert(numbers, Usage)


def _is_null(value: bytes) -> bool:
    return bytes(value).strip() == b"null"


def _taken_limit(fields: dict[str, Encoded], session_id: str) -> ProviderLimit | None:
    if "limit" not in fields:
        return None
    limit = decode_provider_limit(fields["limit"], session_id)
    if limit is not None or _is_null(fields["limit"]):
        del fields["limit"]
    return limit
