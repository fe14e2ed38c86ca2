"""A run in a journal that followed a workflow and has ended."""

from pathlib import Path

import msgspec

from fsm_runner.journal.journal import Journal
from fsm_runner.journal.records import WorkflowRecord
from fsm_runner.workflow.file import LoadedWorkflow, load_workflow

RUN = "run_0123456789abcdef"
SHIP = """
name = "ship"
initial = "write"
params = { text = "string" }

[states.write]
command = { run = ["printf", "a text"] }
assigns = "work"
timeout_s = 60
on_done = "verify"

[states.verify]
command = { run = ["test", "x${work.stdout}", "=", "another text"] }
timeout_s = 60
max_visits = 3
on_done = "publish"
on_error = "write"

[states.publish]
command = { run = ["printf", "published: ${work.stdout} after ${verify.exit_code}"] }
timeout_s = 60
on_done = "decide"

[states.decide]
on_done = "completed"
"""


def value(**fields: object) -> bytes:
    return msgspec.json.encode({"ok": True, "error": "", **fields})


def load(folder: Path, text: str = SHIP) -> LoadedWorkflow:
    folder.mkdir(exist_ok=True)
    path = folder / "ship.toml"
    path.write_text(text)
    return load_workflow(path)


def record_of(workflow: LoadedWorkflow, **fields: object) -> WorkflowRecord:
    return WorkflowRecord(
        **{
            "name": workflow.definition.name,
            "path": workflow.path,
            "text": workflow.text,
            "sha256": workflow.sha256,
            "schemas": msgspec.json.encode(workflow.schemas),
            "parameters": b'{"text":"do it"}',
            **fields,
        }  # type: ignore[arg-type]  # names of its fields
    )


async def write_ended_run(
    folder: Path, record: WorkflowRecord, *, agent: str | None = "say", ends: bool = True
) -> None:
    """Write into the journal: `write`, `verify` fails, `write`, `verify` fails."""
    journal = Journal(folder)
    journal.record_claim(RUN, "ses_old", agent, "me", b"{}")
    journal.record_workflow(RUN, record)
    for number in (1, 3):
        journal.record_visit(RUN, number, "write", None)
        work = value(exit_code=0, stdout=f"text {number}", stderr="")
        journal.record_visit_end(RUN, number, "done", "verify", "work", work, None)
        failed = value(ok=False, error="no", exit_code=number, stdout="", stderr="")
        journal.record_visit(RUN, number + 1, "verify", None)
        journal.record_visit_end(RUN, number + 1, "error", "write", "verify", failed, None)
    if ends:
        journal.record_run_end(RUN)
    await journal.aclose()
