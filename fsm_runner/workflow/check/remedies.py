"""Remedies for the deviations from the format that users make most."""

import re

import msgspec

from fsm_runner.machine.defects import Defect
from fsm_runner.workflow.definition import ACTIVITY_KEYS, Agent, Approval, Command, State, Turn, Wait, Workflow

_EXAMPLES = {
    "turn": 'turn = { prompt = "${params.task}" }',
    "command": 'command = { run = ["git", "diff"] }',
    "run": 'run = ["git", "diff", "main"]',
    "agent": 'agent = { name = "reviewer", parameters = { prompt = "…" } }',
    "approval": 'approval = { question = "Merge?" }',
    "wait": "wait = { for_s = 60 }",
    "params": 'params = { task = "string" }',
    "budget": "budget = { max_wall_s = 3600 }",
    "result": 'result = { text = "${work.result}" }',
    "schema": 'schema = { type = "object", properties = { verdict = { type = "string" } } }',
}
_BRANCHES = """[{ when = "verify.exit_code == 0", to = "ask" }, { to = "fix" }]"""


_ARGUMENTS = {
    key: form.__struct_fields__ for key, form in zip(ACTIVITY_KEYS, (Turn, Command, Agent, Approval, Wait), strict=True)
}
_UNKNOWN = "unknown key"


def with_remedy(defect: Defect) -> Defect:
    """Return the defect, with an example if a value has the wrong form, or with the place where a key belongs."""
    outer, _, key = defect.place.rpartition(".")
    if defect.message.startswith(_UNKNOWN) and (belongs := _right_place(outer, key)) is not None:
        return msgspec.structs.replace(defect, message=f"{_UNKNOWN} here: {belongs}")
    example = _EXAMPLES.get(key)
    if (found := re.fullmatch(r"(on_\w+)(\[\d+\])?", key)) and key != "on_interrupted":
        example = f"{found[1]} = {_BRANCHES}"
    if example is None or not defect.message.startswith("must be a"):
        return defect
    return msgspec.structs.replace(defect, message=f"{defect.message}; write, for example, {example}")


def _right_place(outer: str, key: str) -> str | None:
    """Return where a key belongs that is known, but not in this table."""
    levels = outer.split(".") if outer else []
    if not levels and key in State.__struct_fields__:
        return "it is a key of a state, which begins with a line such as [states.write]"
    if levels[:1] != ["states"]:
        return None
    if len(levels) == 3 and key in State.__struct_fields__:
        return f"it is a key of the state, outside of `{levels[2]}`"
    if len(levels) == 2 and key in Workflow.__struct_fields__:
        return "it is a key of the whole file, above the first line in brackets"
    activities = [f"`{activity}`" for activity, names in _ARGUMENTS.items() if key in names]
    return f"it is an argument of {' and '.join(activities)}" if len(levels) == 2 and activities else None
