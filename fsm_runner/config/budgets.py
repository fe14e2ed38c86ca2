"""What runs may use of their provider, and which sessions they may start, as declared in a profile or in a flag."""

import re
from typing import Annotated, Any

import msgspec

from fsm_runner.journal.records import MOST_USED
from fsm_runner.util.structs import with_defaults

_Amount = Annotated[float, msgspec.Meta(gt=0, le=MOST_USED)]
_Count = Annotated[int, msgspec.Meta(gt=0, le=MOST_USED)]


class UsageLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The maxima of one sum. None: no limit."""

    max_cost_usd: _Amount | None = None
    max_tokens: _Count | None = None
    """Input, output and cache tokens together."""
    max_turns: _Count | None = None
    """As the executor counts them: usually turns of the model."""


NO_USAGE_LIMITS = UsageLimits()


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The maxima of the usage that executors report."""

    run: UsageLimits = NO_USAGE_LIMITS
    session: UsageLimits = NO_USAGE_LIMITS
    """For all runs of a session together."""
    tree: UsageLimits = NO_USAGE_LIMITS
    """For a session without a parent, the sessions that it has started, and those that they have started."""

    def with_defaults(self, defaults: "Budget") -> "Budget":
        """These limits, and those of `defaults` that are not set here."""
        return Budget(
            run=with_defaults(self.run, defaults.run),
            session=with_defaults(self.session, defaults.session),
            tree=with_defaults(self.tree, defaults.tree),
        )


NO_BUDGET = Budget()


class ChildLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The bounds of the sessions that executors start."""

    max_depth: Annotated[int, msgspec.Meta(ge=0, le=1_000)] = 5
    """The greatest number of sessions above a session. 0: executors start no sessions."""
    max_count: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 100
    """The sessions of a tree except its root."""


DEFAULT_CHILD_LIMITS = ChildLimits()


def parse_budget(text: str) -> Budget:
    """Parse `run.max_cost_usd=2,tree.max_tokens=5000000`, in which every part is optional.

    Raises ValueError, which says what was expected.
    """
    fields: dict[str, dict[str, Any]] = {name: {} for name in Budget.__struct_fields__}
    for part in text.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        of, _, maximum = name.partition(".")
        if of not in fields or maximum not in UsageLimits.__struct_fields__:
            raise ValueError(
                f"expected SUM.MAXIMUM=NUMBER, separated by commas; SUM is one of {', '.join(fields)}; "
                f"MAXIMUM is one of {', '.join(UsageLimits.__struct_fields__)}"
            )
        if maximum in fields[of]:
            raise ValueError(f"{name} is given twice")
        try:
            fields[of][maximum] = _parsed(maximum, value)
        except ValueError as defect:
            raise ValueError(f"{name}: {defect}") from None
    return Budget(**{of: UsageLimits(**maxima) for of, maxima in fields.items()})


def _parsed(maximum: str, text: str) -> float | int:
    is_amount = maximum == "max_cost_usd"
    form = r"[0-9]{1,13}(\.[0-9]{1,9})?" if is_amount else "[0-9]{1,13}"
    if not re.fullmatch(form, text) or not 0 < float(text) <= MOST_USED:
        raise ValueError("expected a number above 0" if is_amount else "expected a whole number from 1 up")
    return float(text) if is_amount else int(text)
