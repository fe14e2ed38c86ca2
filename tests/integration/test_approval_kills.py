"""A runner that is killed around a decision: what its journal has counts, and no other answer was given."""

import asyncio
import signal
import sys
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.journal.journal import Journal
from fsm_runner.journal.records import WorkflowRecord
from fsm_runner.protocol.wire import Run
from fsm_runner.runtime.workflow.approval import ApprovalStep
from fsm_runner.runtime.workflow.approvals import AlreadyDecided, Approvals
from fsm_runner.workflow.definition import Approval
from tests.support.program import environment
from tests.support.watch import PATIENCE_S
from tests.support.workflow_steps import new_context, new_visit

RUN = Run(run_id="run_1", session_id="ses_1")
DUE_S = 4_000_000_000.0
KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from tests.integration.test_approval_kills import decide_and_die
asyncio.run(decide_and_die(Path(sys.argv[1]), sys.argv[2]))
"""


def asked(journal: Journal, progress: bytes | None) -> tuple[Approvals, ApprovalStep]:
    approvals = Approvals()
    context = new_context(cast("CoordinatorApi", None), approvals=approvals, flush=journal.flush)
    visit = new_visit(
        "approval",
        Approval(question="Merge?"),
        Path("/"),
        run=RUN,
        due_s=DUE_S,
        progress=progress,
        save=partial(journal.record_visit_progress, RUN.run_id, 1),
    )
    return approvals, ApprovalStep(visit, context)


def kill_this_process(*_: object) -> None:
    signal.raise_signal(signal.SIGKILL)


async def decide_and_die(folder: Path, moment: str) -> None:
    """Ask, decide, and kill this process before the journal has the decision, or before the decision is an answer."""
    journal = Journal(folder)
    journal.record_claim(RUN.run_id, RUN.session_id, None, "rnr_1", b"{}")
    workflow = WorkflowRecord(name="w", path="w.toml", text="", sha256="", schemas=b"{}", parameters=b"{}")
    journal.record_workflow(RUN.run_id, workflow)
    journal.record_visit(RUN.run_id, 1, "work", DUE_S)
    approvals, step = asked(journal, None)
    await journal.flush()
    performing = asyncio.create_task(step.perform())
    await asyncio.sleep(0)
    if moment == "before the write":
        step._pending._on_decision = kill_this_process
    else:
        approvals.note_recorded = kill_this_process  # type: ignore[method-assign, assignment]
    await approvals.decide(RUN.run_id, approved=False, by="ada", comment="no")
    print("answered", flush=True)  # noqa: T201 - read by the test
    await performing


@pytest.mark.parametrize("moment", ["before the write", "before the answer"])
async def test_a_kill_around_a_decision_leaves_one_answer(moment: str, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", KILLED, str(tmp_path), moment),
        env=environment(None),
        stdout=asyncio.subprocess.PIPE,
    )
    said, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert (said, process.returncode) == (b"", -signal.SIGKILL)

    journal = Journal(tmp_path)
    (left,) = journal.recovered.runs
    assert left.workflow is not None
    visit = left.workflow.open
    assert visit is not None
    assert (visit.number, visit.due_s) == (1, DUE_S)
    approvals, step = asked(journal, visit.progress)
    performing = asyncio.create_task(step.perform())
    await asyncio.sleep(0)
    if moment == "before the write":
        assert [each.run_id for each in approvals.pending()] == [RUN.run_id]
        await approvals.decide(RUN.run_id, approved=True, by="bob", comment="")
    else:
        assert approvals.pending() == []
        with pytest.raises(AlreadyDecided, match="denied by ada"):
            await approvals.decide(RUN.run_id, approved=True, by="bob", comment="")
    ended = await asyncio.wait_for(performing, PATIENCE_S)
    assert ended.ending == ("done" if moment == "before the write" else "denied")
    await journal.aclose()
