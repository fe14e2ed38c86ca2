"""The format of a spec, the file that declares a machine.

These Structs describe the format only; `check` judges whether their contents make sense together. The docstring of each
field is its description in the JSON Schema (`schema`).
"""

import sys
from typing import Annotated, Literal

import msgspec

Seconds = Annotated[float, msgspec.Meta(gt=0, le=sys.float_info.max)]

# No `pattern` here: in a union with a tuple it corrupts memory in msgspec 0.22, and the interpreter crashes at exit.
Name = Annotated[str, msgspec.Meta(min_length=1)]
"""Text on one line that is not blank, which may contain spaces. `check` refuses other text."""

OUTCOME_GUARD = "outcome_is_"
"""A guard of this name with an outcome behind it holds if that outcome has been decided."""


class _Form(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class Retry(_Form, frozen=True, kw_only=True):
    """Retries of a failed activity. Each wait is random, below a bound that doubles."""

    times: Annotated[int, msgspec.Meta(ge=1)]
    """Number of retries."""
    base_s: Seconds
    """Bound of the first wait, in seconds."""
    cap_s: Seconds
    """Highest bound of a wait, in seconds."""


class State(_Form, frozen=True, kw_only=True):
    """A state. Without `invoke` and `final` it waits for events."""

    doc: str = ""
    """One line about the state."""
    invoke: Name | None = None
    """Activity that starts when the machine enters the state and is cancelled when it leaves the state."""
    timeout_s: Seconds | Name | None = None
    """Time limit of the state: seconds, or the name of a setting that the actor supplies."""
    on_done: Name | None = None
    """Event when the activity returns."""
    on_error: Name | None = None
    """Event when the activity fails, after all retries."""
    on_timeout: Name | None = None
    """Event when the time limit passes."""
    retry: Retry | None = None
    """Retries of the activity if it fails."""
    ignore: tuple[Name, ...] = ()
    """Events of `[events]` that change nothing in this state."""
    reject: tuple[Name, ...] = ()
    """Events of `[events]` that this state refuses: they change nothing, and their sender learns that."""
    tags: tuple[Name, ...] = ()
    """Tags of `[tags]`: what the actor needs to know about this state."""
    final: bool = False
    """Whether the machine ends here."""
    outcome: Name | None = None
    """For a final state: how the run, session or runner ended."""
    tone: Literal["good", "bad", "neutral"] | None = None
    """Whether this end is a success, a failure, or neither. It colours diagrams. A final state has one."""

    @property
    def own_events(self) -> tuple[str, ...]:
        """The events that the state itself causes, by its activity and its time limit."""
        return tuple(event for event in (self.on_done, self.on_error, self.on_timeout) if event is not None)


class Group(_Form, frozen=True, kw_only=True):
    """A superstate: states that share answers to events, and tags."""

    doc: str = ""
    """One line about the group."""
    states: tuple[Name, ...] = ()
    """The members: states and other groups."""
    ignore: tuple[Name, ...] = ()
    """Events that change nothing in a member that has no answer of its own."""
    reject: tuple[Name, ...] = ()
    """Events that a member refuses if it has no answer of its own."""
    tags: tuple[Name, ...] = ()
    """Tags of `[tags]` that every member has."""


class Transition(_Form, frozen=True, kw_only=True, rename={"source": "from"}):
    """A transition from one or more states to a state."""

    source: Name | tuple[Name, ...]
    """A state, a group, or a list of both. A group means its members that have no answer of their own to the event."""
    event: Name
    """Event that causes the transition."""
    to: Name
    """Target state."""
    guard: Name | None = None
    """Condition. Of several transitions for one event, the machine takes the first whose guard holds."""
    decides: Name | None = None
    """Outcome that this transition decides. Later decisions do not change it."""
    provisional: bool = False
    """Whether the decided outcome is an assumption, so that a different end recorded by the coordinator wins."""
    main: bool = False
    """Whether the transition is on the path on which nothing goes wrong. Diagrams emphasise it."""
    doc: str = ""
    """Reason for the transition."""

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.source,) if isinstance(self.source, str) else self.source


class Spec(_Form, frozen=True, kw_only=True):
    """A machine of fsm-runner."""

    name: Name
    """Name of the machine."""
    initial: Name
    """State in which the machine starts."""
    doc: str = ""
    """One line about the machine."""
    events: dict[Name, str]
    """Events from outside, which can arrive in any state, each with a line that explains it."""
    tags: dict[Name, str] = {}
    """Tags that states can have, each with a line that explains it."""
    states: dict[Name, State]
    """The states by name."""
    groups: dict[Name, Group] = {}
    """The groups by name."""
    transitions: tuple[Transition, ...]
    """The transitions."""


class ActorInterface(msgspec.Struct, frozen=True, kw_only=True):
    """The names that an actor's spec may use. Its events, tags and outcomes must be exactly those of the actor."""

    name: str = ""
    """The name of the machine; empty if any will do."""
    activities: frozenset[str] = frozenset()
    facts: frozenset[str] = frozenset()
    """The guards that hold while the actor has their name in `Model.facts`."""
    settings: frozenset[str] = frozenset()
    """The names that `timeout_s` may have instead of a number."""
    events: frozenset[str] = frozenset()
    """The events that the actor posts from outside."""
    tags: frozenset[str] = frozenset()
    """The tags that the program looks for."""
    outcomes: frozenset[str] = frozenset()
    """The outcomes that the program knows. For each there is a guard `outcome_is_…`."""

    @property
    def guards(self) -> frozenset[str]:
        return self.facts | {f"{OUTCOME_GUARD}{outcome}" for outcome in self.outcomes}
