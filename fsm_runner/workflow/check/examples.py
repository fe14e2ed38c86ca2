"""Examples for the deviations from the format that users make most."""

import re

import msgspec

from fsm_runner.machine.defects import Defect

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


def with_example(defect: Defect) -> Defect:
    """Return the defect, with an example if a value has the wrong form."""
    key = defect.place.rpartition(".")[2]
    example = _EXAMPLES.get(key)
    if found := re.fullmatch(r"(on_\w+)\[\d+\]", key):
        example = f"{found[1]} = {_BRANCHES}"
    if example is None or not defect.message.startswith("must be a"):
        return defect
    return msgspec.structs.replace(defect, message=f"{defect.message}; write, for example, {example}")
