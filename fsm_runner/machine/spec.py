"""The form of a machine: what a file in `specs/` may say.

These Structs are shapes only. Whether what they say makes sense together is the business of `check`.
"""

from typing import Annotated

import msgspec

Seconds = Annotated[float, msgspec.Meta(gt=0)]

# No `pattern` here: in a union with a tuple it corrupts memory in msgspec 0.22, and the interpreter crashes at exit.
Name = Annotated[str, msgspec.Meta(min_length=1)]
"""Any text on one line that is not blank (`check` sees to that); states may have spaces in their names."""

Count = Annotated[int, msgspec.Meta(ge=1)]


class _Form(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Retry(_Form, frozen=True, kw_only=True):
    """How often a failed activity is tried again, and how far apart: full jitter below a doubling bound."""

    times: Count
    base_s: Seconds
    cap_s: Seconds


class State(_Form, frozen=True, kw_only=True):
    """One state. Without `invoke` and `final` it waits for events."""

    doc: str = ""
    invoke: Name | None = None
    """The activity that runs while the machine is in this state."""
    timeout_s: Seconds | Name | None = None
    """How long the state may last: seconds, or the name of a setting that the actor supplies."""
    on_done: Name | None = None
    on_error: Name | None = None
    on_timeout: Name | None = None
    retry: Retry | None = None
    ignore: tuple[Name, ...] = ()
    """The events of `[events]` that change nothing here."""
    final: bool = False
    outcome: Name | None = None
    """Of a final state: how what has ended here is called."""

    @property
    def own_events(self) -> tuple[str, ...]:
        """The events that this state itself causes, by its activity and its time limit."""
        return tuple(event for event in (self.on_done, self.on_error, self.on_timeout) if event is not None)


class Transition(_Form, frozen=True, kw_only=True, rename={"source": "from"}):
    source: Name | tuple[Name, ...]
    event: Name
    to: Name
    guard: Name | None = None
    """Taken only when this predicate of the actor holds."""
    decides: Name | None = None
    """The outcome that this transition settles; the first one settled stands."""
    doc: str = ""

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,) if isinstance(self.source, str) else self.source


class Spec(_Form, frozen=True, kw_only=True):
    name: Name
    initial: Name
    doc: str = ""
    events: dict[Name, str]
    """The events that may arrive in any state, each with a line that explains it."""
    states: dict[Name, State]
    transitions: tuple[Transition, ...]


class ActorInterface(msgspec.Struct, frozen=True, kw_only=True):
    """What an actor can do with a machine: all names that a spec for it may use."""

    activities: frozenset[str] = frozenset()
    guards: frozenset[str] = frozenset()
    settings: frozenset[str] = frozenset()
    """Names that `timeout_s` may use in place of a number."""
    events: frozenset[str] = frozenset()
    """The events that the actor can post in any state."""
