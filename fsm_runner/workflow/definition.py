"""The content of a workflow file (docs/workflows.md, "Reference")."""

from typing import Annotated, Any, Literal, get_args

import msgspec

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z", max_length=100)]
"""The name of a state, a value or a parameter: expressions can contain it."""
WorkflowName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_-]*\Z", max_length=100)]
Text = Annotated[str, msgspec.Meta(min_length=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=10 * 365 * 86_400)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Target = Annotated[str, msgspec.Meta(min_length=1)]
"""The name of a state. No `pattern` here: in a union with a tuple it corrupts memory in msgspec 0.22."""
JsonSchema = dict[str, Any]
ParameterType = Literal["string", "integer", "number", "boolean", "list", "object"]

COMPLETED, FAILED = "completed", "failed"
"""The final states that every workflow has, and the outcomes of final states."""


class _Form(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    pass


class Parameter(_Form, frozen=True, kw_only=True):
    """A parameter that a run of the workflow has."""

    type: ParameterType
    default: Any = msgspec.UNSET
    """The value if the run has none; UNSET: the run must have one."""


_TYPES: dict[ParameterType, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "list": (list,),
    "object": (dict,),
}


JSON_TYPES: dict[ParameterType, str] = {
    "string": "string",
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "list": "array",
    "object": "object",
}
"""The names that JSON Schema has for these types."""


def has_type(value: object, wanted: ParameterType) -> bool:
    """Return whether a value of JSON can be that of a parameter."""
    return isinstance(value, _TYPES[wanted]) and (wanted == "boolean" or not isinstance(value, bool))


def type_name(value: object) -> str:
    """Return the type of a value of JSON, as `params` calls it."""
    return next((name for name in _TYPES if has_type(value, name)), "null")


class Budget(_Form, frozen=True, kw_only=True):
    """What the workflow may use. None: no limit."""

    max_wall_s: Seconds | None = None
    max_cost_usd: Annotated[float, msgspec.Meta(gt=0)] | None = None
    max_tokens: Count | None = None
    max_turns: Count | None = None
    max_children: Count | None = None


class Result(_Form, frozen=True, kw_only=True):
    """The templates of the run's result."""

    text: str = ""
    data: Any = None


class Branch(_Form, frozen=True, kw_only=True):
    """A possible next state."""

    to: Name
    when: Annotated[str, msgspec.Meta(min_length=1, max_length=2_000)] | None = None
    """An expression. None: the branch is taken if no earlier one was."""


class Turn(_Form, frozen=True, kw_only=True):
    """Continue the run's conversation. All texts are templates."""

    prompt: Text | None = None
    parameters: dict[str, Any] | None = None
    session: Literal["continue", "new"] = "continue"
    config: dict[str, Any] | None = None


class Command(_Form, frozen=True, kw_only=True):
    """Run a program. The elements of `run` but the first, and `stdin`, are templates."""

    run: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    stdin: str | None = None
    env: tuple[Name, ...] = ()


class Agent(_Form, frozen=True, kw_only=True):
    """Start other agents. All texts but `name` are templates."""

    name: Text | None = None
    """None: the agent of the run itself, or none if the run has none."""
    parameters: dict[str, Any] = {}
    project_dir: str | None = None
    each: str | list[Any] | None = None
    """A template of a list, or a list whose texts are templates."""
    at_once: Count | None = None
    may_fail: Annotated[int, msgspec.Meta(ge=0)] = 0
    worktree: bool = False


class Approval(_Form, frozen=True, kw_only=True):
    """Ask a person."""

    question: Text


class Wait(_Form, frozen=True, kw_only=True):
    """Wait for a time: exactly one of the two."""

    for_s: Seconds | None = None
    until: str | None = None
    """A template of a time with an offset."""


Ending = Literal["done", "error", "timeout", "denied", "exhausted"]
"""How a visit of a state ended: it leads to the state that `on_…` names."""
ENDINGS: tuple[Ending, ...] = get_args(Ending)

REPEAT, CONTINUE = "repeat", "continue"
"""The values of `on_interrupted` that are not the name of a state."""

Activity = Turn | Command | Agent | Approval | Wait
ACTIVITY_KEYS = ("turn", "command", "agent", "approval", "wait")


class State(_Form, frozen=True, kw_only=True):
    """A state: an activity and what follows it, a choice, or an end."""

    doc: str = ""
    turn: Turn | None = None
    command: Command | None = None
    agent: Agent | None = None
    approval: Approval | None = None
    wait: Wait | None = None
    assigns: Name | None = None
    schema: JsonSchema | str | None = None
    """A JSON Schema, or the path of one, relative to the workflow's file."""
    timeout_s: Seconds | None = None
    max_visits: Count | None = None
    on_done: Target | tuple[Branch, ...] | None = None
    on_error: Target | tuple[Branch, ...] | None = None
    on_timeout: Target | tuple[Branch, ...] | None = None
    on_denied: Target | tuple[Branch, ...] | None = None
    on_exhausted: Target | tuple[Branch, ...] | None = None
    on_interrupted: Name | None = None
    """`repeat`, `continue`, or the name of a state."""
    final: bool = False
    outcome: Literal["completed", "failed"] | None = None
    error: str | None = None
    """A template of the run's error."""

    def branches(self, ending: str) -> tuple[Branch, ...]:
        """Return what follows an `Ending`; nothing if the state does not say."""
        follows: str | tuple[Branch, ...] | None = getattr(self, f"on_{ending}")
        return (Branch(to=follows),) if isinstance(follows, str) else follows or ()

    @property
    def activities(self) -> dict[str, Activity]:
        """The activities by key. A sound state has one, or none."""
        found: dict[str, Activity | None] = {key: getattr(self, key) for key in ACTIVITY_KEYS}
        return {key: activity for key, activity in found.items() if activity is not None}

    @property
    def activity(self) -> Activity | None:
        return self.turn or self.command or self.agent or self.approval or self.wait


IMPLICIT_STATES = {
    COMPLETED: State(final=True, outcome="completed"),
    FAILED: State(final=True, outcome="failed"),
}
"""The final states that every workflow has without declaring them."""


class Workflow(_Form, frozen=True, kw_only=True):
    """A whole file."""

    name: WorkflowName
    doc: str = ""
    initial: Name
    params: dict[Name, ParameterType | Parameter] = {}
    budget: Budget = Budget()
    result: Result | None = None
    states: dict[Name, State]

    @property
    def all_states(self) -> dict[str, State]:
        """The declared states, then the implicit ones."""
        return {**self.states, **{name: state for name, state in IMPLICIT_STATES.items() if name not in self.states}}

    def value_of(self, state: str) -> str:
        """Return the name of the value that a state assigns."""
        return self.states[state].assigns or state
