"""A sound workflow, and what `machine check` finds in changed ones."""

from pathlib import Path

from fsm_runner.workflow.check import check
from fsm_runner.workflow.file import read_workflow

SOUND = """\
name = "author-and-reviewer"
doc = "One agent writes, another reviews at most three times, a person decides."
initial = "write"
params = { task = "string", tries = { type = "integer", default = 3 } }
budget = { max_wall_s = 108000, max_cost_usd = 20, max_children = 3 }
result = { text = "${work.result}", data = { by = "${decision.by}", comment = "${decision.comment}" } }

[states.write]
turn = { prompt = "${params.task}" }
assigns = "work"
on_done = "diff"

[states.diff]
command = { run = ["git", "diff", "main"] }
timeout_s = 60
on_interrupted = "repeat"
on_done = "review"

[states.review]
agent = { name = "reviewer", parameters = { prompt = "Task: ${params.task} Diff: ${diff.stdout}" } }
schema = "review.schema.json"
timeout_s = 1800
max_visits = 3
on_exhausted = "ask"
on_done = [
    { when = "review.data.verdict == 'accept'", to = "ask" },
    { to = "revise" },
]

[states.revise]
turn = { prompt = "The reviewer asks for changes: ${review.data.comments}" }
assigns = "work"
on_done = "diff"

[states.ask]
approval = { question = "Merge? ${work.result} ${review.data.verdict}: ${review.data.comments}" }
assigns = "decision"
timeout_s = 86400
on_done = "completed"
on_denied = "rejected"

[states.rejected]
final = true
outcome = "failed"
error = "not approved by ${decision.by}: ${decision.comment}"
"""
SCHEMA = """\
{"type": "object", "required": ["verdict", "comments"],
 "properties": {"verdict": {"enum": ["accept", "revise"]}, "comments": {"type": "string"},
                "note": {"type": "string"}, "tasks": {"type": "array", "items": {"type": "string"}}}}
"""


def findings(folder: Path, text: str) -> list[str]:
    path = folder / "author-and-reviewer.toml"
    path.write_text(text)
    return [str(defect).removeprefix(f"{path}:") for defect in check(read_workflow(path))]
