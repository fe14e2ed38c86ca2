"""The format of a machine: what a file in `specs/` may contain.

These Structs describe the format only. `check` judges whether their contents make sense together.
"""

from typing import Annotated, Literal

import msgspec

Seconds = Annotated[float, msgspec.Meta(gt=0)]

# No `pattern` here: in a union with a tuple it corrupts memory in msgspec 0.22, and the interpreter crashes at exit.
Name = Annotated[str, msgspec.Meta(min_length=1)]
"""Any text on one line that is not blank (`check` sees to that); states may have spaces in their names."""

Count = Annotated[int, msgspec.Meta(ge=1)]

Tone = Literal["good", "bad", "neutral"]
"""How an end is to be read: success, failure, or neither (a stop, say). It colours the diagram."""


OUTCOME_GUARD = "outcome_is_"
"""The guard of this name with an outcome behind it holds if that outcome has been settled."""


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
    reject: tuple[Name, ...] = ()
    """The events of `[events]` that are refused here: nothing changes, and whoever posted the event learns it."""
    tags: tuple[Name, ...] = ()
    """Tags of `[tags]`: what the actor needs to know about this state."""
    final: bool = False
    outcome: Name | None = None
    """Of a final state: how what has ended here is called."""
    tone: Tone | None = None
    """Of a final state: whether this end is a success, a failure or neither."""

    @property
    def own_events(self) -> tuple[str, ...]:
        """The events that this state itself causes, by its activity and its time limit."""
        return tuple(event for event in (self.on_done, self.on_error, self.on_timeout) if event is not None)


class Group(_Form, frozen=True, kw_only=True):
    """States that share answers and tags (a superstate). `groups.flatten` hands them to the members."""

    doc: str = ""
    states: tuple[Name, ...] = ()
    """The members: states or other groups."""
    ignore: tuple[Name, ...] = ()
    """The events that change nothing in a member without an own answer to them."""
    reject: tuple[Name, ...] = ()
    """The events that a member without an own answer to them refuses."""
    tags: tuple[Name, ...] = ()
    """Tags of `[tags]` that every member has."""


class Transition(_Form, frozen=True, kw_only=True, rename={"source": "from"}):
    source: Name | tuple[Name, ...]
    """A state, a group, or a list of both. A group stands for its members that have no own answer to the event."""
    event: Name
    to: Name
    guard: Name | None = None
    """Taken only when this predicate of the actor holds."""
    decides: Name | None = None
    """The outcome that this transition settles; the first one settled stands."""
    provisional: bool = False
    """The decided outcome is an assumption: an end that is already recorded elsewhere takes precedence."""
    main: bool = False
    """The transition is on the path of a machine in which nothing goes wrong. Diagrams emphasise it."""
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
    tags: dict[Name, str] = {}
    """The tags that states may have, each with a line that explains it."""
    states: dict[Name, State]
    groups: dict[Name, Group] = {}
    transitions: tuple[Transition, ...]


class ActorInterface(msgspec.Struct, frozen=True, kw_only=True):
    """What an actor can do and what it needs: all names that a spec for it may or must use."""

    activities: frozenset[str] = frozenset()
    facts: frozenset[str] = frozenset()
    """The guards that hold while the actor has the name in `Model.facts`."""
    settings: frozenset[str] = frozenset()
    """Names that `timeout_s` may use in place of a number."""
    events: frozenset[str] = frozenset()
    """The events that the actor can post in any state."""
    tags: frozenset[str] = frozenset()
    """The tags that the actor looks for."""
    outcomes: frozenset[str] = frozenset()
    """The outcomes that the actor knows. For each there is a guard `outcome_is_…`."""

    @property
    def guards(self) -> frozenset[str]:
        """All names that `guard` may use."""
        return self.facts | {f"{OUTCOME_GUARD}{outcome}" for outcome in self.outcomes}
