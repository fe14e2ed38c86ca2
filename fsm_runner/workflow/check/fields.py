"""The fields of the value that an activity produces (docs/workflows.md, "Values")."""

import msgspec

from fsm_runner.workflow.definition import Agent, Approval, Command, State, Turn
from fsm_runner.workflow.value_types import ANY, Kind, ValueType

TEXT, INTEGER, BOOLEAN = ValueType(Kind.TEXT), ValueType(Kind.INTEGER), ValueType(Kind.BOOLEAN)
_ALWAYS = {"ok": BOOLEAN, "error": TEXT}


def has_data(state: State) -> bool:
    """Whether the value has `data` after `on_done`. With `each`, each item has it instead."""
    return state.schema is not None and not (isinstance(state.activity, Agent) and state.activity.each is not None)


def fields_of(state: State, data: ValueType = ANY, element: ValueType = ANY) -> dict[str, ValueType]:
    """Return all fields of the value. `data`: the type that the schema describes; `element`: of the elements of `each`.

    `assigned` says after which endings a field exists.
    """
    fields = dict(_ALWAYS)
    match state.activity:
        case Turn():
            fields |= {"result": TEXT}
        case Command():
            fields |= {"exit_code": INTEGER, "stdout": TEXT, "stderr": TEXT}
        case Agent(each=None, worktree=worktree):
            fields |= _of_child(worktree)
        case Agent(worktree=worktree):
            item = {"item": element, **_ALWAYS, **_of_child(worktree)}
            if state.schema is not None:  # a child that failed has none
                item["data"] = msgspec.structs.replace(data, is_optional=True)
            fields |= {"items": ValueType(Kind.LIST, element=ValueType(Kind.OBJECT, item)), "failed": INTEGER}
        case Approval():
            fields |= {"by": TEXT, "comment": TEXT, "at": TEXT}
    if has_data(state):
        fields["data"] = data
    return fields


def assigned(state: State, ending: str) -> frozenset[str]:
    """Return the fields that exist after an ending of the activity, whatever happened."""
    fields = {*_ALWAYS}
    match state.activity:
        case Turn() if ending in ("done", "error"):
            fields |= {"result"}
        case Command():
            fields |= {"exit_code", "stdout", "stderr"}
        case Agent(each=None, worktree=worktree) if ending == "done":
            fields |= _of_child(worktree).keys()
        case Agent(each=None) if ending == "error":
            fields |= {"result", "session_id"}
        case Agent(each=str() | list()) if ending in ("done", "error"):
            fields |= {"items", "failed"}
        case Approval():
            fields |= {"by", "comment", "at"}
    if ending == "done" and has_data(state):
        fields.add("data")
    return frozenset(fields)


def _of_child(worktree: bool) -> dict[str, ValueType]:
    return dict.fromkeys(("result", "session_id", *(("branch", "worktree") if worktree else ())), TEXT)
