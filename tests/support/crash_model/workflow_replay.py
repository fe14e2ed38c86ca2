"""The workflows of runs, as the calls of a journal describe them."""

from collections import Counter
from typing import Any

import msgspec
from msgspec.structs import replace

from fsm_runner.journal.records import Recovered, VisitRecord, WorkflowPosition, WorkflowRecord


class WorkflowCalls:
    """The methods of a journal about workflows."""

    def record_workflow(self, run_id: str, workflow: WorkflowRecord) -> None:
        self._record("record_workflow", run_id, workflow)

    def forget_workflow(self, run_id: str) -> None:
        self._record("forget_workflow", run_id)

    def record_visit(self, run_id: str, number: int, state: str, due_s: float | None) -> None:
        self._record("record_visit", run_id, number, state, due_s)

    def record_visit_progress(self, run_id: str, number: int, progress: bytes) -> None:
        self._record("record_visit_progress", run_id, number, progress)

    def record_visit_interrupted(self, run_id: str, number: int, interruptions: int) -> None:
        self._record("record_visit_interrupted", run_id, number, interruptions)

    def record_visit_due(self, run_id: str, number: int, due_s: float | None) -> None:
        self._record("record_visit_due", run_id, number, due_s)

    def record_visit_end(
        self,
        run_id: str,
        number: int,
        ending: str,
        target: str,
        value_name: str | None,
        value: bytes | None,
        usage: bytes | None,
    ) -> None:
        self._record("record_visit_end", run_id, number, ending, target, value_name, value, usage)

    def record_workflow_end(self, run_id: str, ending: str) -> None:
        self._record("record_workflow_end", run_id, ending)

    def rerun_plan_of(self, run_id: str) -> WorkflowPosition | None:
        return None

    def _record(self, method: str, *arguments: object) -> None:
        raise NotImplementedError


class WorkflowReplay:
    """Goes through the calls about workflows once."""

    def __init__(self) -> None:
        self.at = ""
        """The wall clock at the call."""
        self.workflows: dict[str, tuple[str, WorkflowRecord]] = {}
        """Its beginning and the workflow, by run."""
        self.visits: dict[str, dict[int, VisitRecord]] = {}

    def record_workflow(self, run_id: str, workflow: WorkflowRecord) -> None:
        self.workflows[run_id] = (self.at, workflow)

    def forget_workflow(self, run_id: str) -> None:
        self.workflows.pop(run_id, None)
        self.visits.pop(run_id, None)

    def record_visit(self, run_id: str, number: int, state: str, due_s: float | None) -> None:
        visit = VisitRecord(number=number, state=state, began_at=self.at, due_s=due_s)
        self.visits.setdefault(run_id, {}).setdefault(number, visit)

    def record_visit_progress(self, run_id: str, number: int, progress: bytes) -> None:
        self._change(run_id, number, progress=progress)

    def record_visit_interrupted(self, run_id: str, number: int, interruptions: int) -> None:
        self._change(run_id, number, interruptions=interruptions)

    def record_visit_due(self, run_id: str, number: int, due_s: float | None) -> None:
        self._change(run_id, number, due_s=due_s)

    def record_visit_end(self, run_id: str, number: int, *end: Any) -> None:
        fields = dict(zip(("ending", "target", "value_name", "value", "usage"), end, strict=True))
        self._change(run_id, number, ended_at=self.at, progress=None, **fields)

    def record_workflow_end(self, run_id: str, ending: str) -> None:
        for number in self.visits.get(run_id, {}):
            self._change(run_id, number, ended_at=self.at, progress=None, ending=ending)

    def position_of(self, run_id: str) -> WorkflowPosition | None:
        if run_id not in self.workflows:
            return None
        began_at, record = self.workflows[run_id]
        values = msgspec.json.decode(record.initial_values or b"{}", type=dict[str, msgspec.Raw])
        position = WorkflowPosition(
            record=record,
            began_at=began_at,
            state=record.rerun_from or "",
            values={name: bytes(value) for name, value in values.items()},
        )
        visits = sorted(self.visits.get(run_id, {}).values(), key=lambda visit: visit.number)
        for visit in visits:
            if visit.value_name is not None and visit.value is not None:
                position.values.pop(visit.value_name, None)
                position.values[visit.value_name] = visit.value
        if not visits:
            return position
        last = visits[-1]
        return replace(
            position,
            state=last.target or last.state,
            counts=dict(Counter(visit.state for visit in visits)),
            usages=tuple(visit.usage for visit in visits if visit.usage is not None),
            last_number=last.number,
            open=last if last.ended_at is None else None,
            last_ended=None if last.target is None else last,
        )

    def _change(self, run_id: str, number: int, **changes: Any) -> None:
        visit = self.visits.get(run_id, {}).get(number)
        if visit is not None and visit.ended_at is None:
            self.visits[run_id][number] = replace(visit, **changes)


def without_times(recovered: Recovered) -> Recovered:
    """Return what was recovered without the wall clock at each call."""
    runs = []
    for run in recovered.runs:
        workflow = run.workflow
        if workflow is not None:
            opened = None if workflow.open is None else replace(workflow.open, began_at="")
            last = workflow.last_ended
            ended = None if last is None else replace(last, began_at="", ended_at="")
            workflow = replace(workflow, began_at="", open=opened, last_ended=ended)
        runs.append(replace(run, workflow=workflow))
    return replace(recovered, runs=tuple(runs))
