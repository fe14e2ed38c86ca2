"""Carries out a workflow with the results of a scenario, without executors."""

from typing import Any, cast

import msgspec

from fsm_runner.errors import UsageError
from fsm_runner.machine.defects import Path
from fsm_runner.protocol.wire import JsonObject
from fsm_runner.util.text import quoted, truncated
from fsm_runner.workflow.arguments import option_defect
from fsm_runner.workflow.check.fields import assigned, fields_of
from fsm_runner.workflow.definition import Agent, Command, Ending
from fsm_runner.workflow.file import LoadedWorkflow
from fsm_runner.workflow.interpreter import Interpreter, RunFacts, WorkflowFault
from fsm_runner.workflow.scenarios import Scenario, ending_of, results_of
from fsm_runner.workflow.templates import text_of
from fsm_runner.workflow.value_types import Kind, ValueType

_RUN = RunFacts("run-id", "session-id", "/project")
_EMPTY: dict[Kind, Any] = {Kind.TEXT: "", Kind.INTEGER: 0, Kind.LIST: []}
_DEFAULT_ERROR = "scripted error"
_SHOWN_CHARS = 200


class Difference(msgspec.Struct, frozen=True):
    at: Path
    """The place in the scenario that the workflow did not satisfy."""
    message: str


class Rehearsal(msgspec.Struct, frozen=True, kw_only=True):
    path: tuple[str, ...]
    """All states in their order."""
    differences: tuple[Difference, ...]
    """None: the workflow did what the scenario expects."""


class _Failed(Exception):
    """The scenario cannot be continued."""

    def __init__(self, at: Path, message: str) -> None:
        super().__init__(message)
        self.at = at


def rehearse(workflow: LoadedWorkflow, scenario: Scenario) -> Rehearsal:
    """Carry out a scenario that matches the workflow."""
    rehearsal = _Rehearsal(workflow, scenario)
    try:
        differences = rehearsal.differences()
    except _Failed as failure:
        differences = [Difference(failure.at, str(failure))]
    return Rehearsal(path=tuple(rehearsal.path), differences=tuple(differences))


class _Rehearsal:
    def __init__(self, workflow: LoadedWorkflow, scenario: Scenario) -> None:
        self._workflow = workflow
        self._scenario = scenario
        self.path = [workflow.definition.initial]
        self._last_turn: JsonObject = {}

    def differences(self) -> list[Difference]:
        """Raises `_Failed`."""
        try:
            flow = Interpreter(self._workflow, self._scenario.parameters, _RUN)
        except UsageError as refusal:
            raise _Failed(("parameters",), str(refusal)) from refusal
        try:
            self.path += (step.target for step in flow.enter())
            while not flow.is_final:
                self._visit(flow)
            outcome, error, result = flow.outcome, flow.error, flow.result() if flow.outcome == "completed" else None
        except WorkflowFault as fault:
            outcome, error, result = "failed", str(fault), None
        found = [*self._compared(flow, str(outcome), error)]
        if outcome == "completed" and self._scenario.expect.result is not msgspec.UNSET:
            found += self._compared_result(result)
        return found

    def _visit(self, flow: Interpreter) -> None:
        state, name, visit = flow.definition, flow.state, flow.visits[flow.state]
        arguments, items = flow.arguments(), flow.each()
        result = results_of(self._scenario, name, visit)
        if result is None:
            at = ("results", name) if name in self._scenario.results else ("results",)
            raise _Failed(at, f"the state {quoted(name)} has no result for its visit {visit}: add one")
        ending = ending_of(state, result)
        if ending == "done" and (defect := option_defect(state, arguments)) is not None:
            raise _Failed(("results", name), f"the command cannot succeed: {defect}")
        if ending == "interrupted":
            steps = flow.interrupt(str(result.get("error") or "interrupted"))
        else:
            value = {"ok": ending == "done", "error": str(result.get("error") or _error(ending, result))}
            for field in sorted(assigned(state, ending) - value.keys()):
                value[field] = result.get(field, _EMPTY.get(fields_of(state)[field].kind))
            if state.approval is not None:
                value["by"] = result.get("by", "deadline" if result.get("timeout") else "scenario")
            if isinstance(state.activity, Command) and ending != "done":
                value["exit_code"] = result.get("exit_code", 124 if ending == "timeout" else 1)
            if items is not None and ending in ("done", "error"):
                ending = self._with_items(flow, value, result, items)
            if state.turn is not None and ending == "done":
                self._last_turn = value
            steps = flow.end(cast(Ending, ending), value)
        self.path += (step.target for step in steps)

    def _with_items(self, flow: Interpreter, value: JsonObject, result: JsonObject, items: list[Any]) -> str:
        """Add the results of the children to the value, and return how the visit ends."""
        scripted = result.get("items", [{} for _ in items])
        if len(scripted) != len(items):
            at = ("results", flow.state)
            raise _Failed(at, f"the visit starts {len(items)} children, but `items` has {len(scripted)} results")
        for index, item in enumerate(items):
            flow.arguments(item, index)
        activity = flow.definition.activity
        may_fail = activity.may_fail if isinstance(activity, Agent) else 0
        element = fields_of(flow.definition)["items"].element or ValueType(Kind.ANY)
        fields = {name: _EMPTY[it.kind] for name, it in (element.fields or {}).items() if it.kind in _EMPTY}
        value["items"] = [
            {**fields, "item": item, "ok": not it.get("error"), **it} for item, it in zip(items, scripted, strict=True)
        ]
        value["failed"] = sum(not it["ok"] for it in value["items"])
        if value["failed"] > may_fail and not value["error"]:
            value["error"] = f"{value['failed']} of {len(items)} children failed, and {may_fail} may fail"
        value["ok"] = not value["error"]
        return "error" if value["error"] else "done"

    def _compared(self, flow: Interpreter, outcome: str, error: str) -> list[Difference]:
        expect, found = self._scenario.expect, []
        if outcome != expect.outcome:
            why = f" ({truncated(error, _SHOWN_CHARS)})" if error else ""
            found.append(
                Difference(("expect", "outcome"), f"expected {expect.outcome}, but the workflow {outcome}{why}")
            )
        elif expect.error is not None and expect.error not in error:
            message = f"expected an error with {quoted(expect.error)}, not {quoted(truncated(error, _SHOWN_CHARS))}"
            found.append(Difference(("expect", "error"), message))
        for name, count in expect.visits.items():
            if flow.visits[name] != count:
                found.append(Difference(("expect", "visits", name), f"expected {count}, not {flow.visits[name]}"))
        if expect.path is not None and list(expect.path) != self.path:
            message = f"expected {_shown_path(expect.path)}; it was {_shown_path(self.path)}"
            found.append(Difference(("expect", "path"), message))
        for name, results in self._scenario.results.items():
            if isinstance(results, tuple) and len(results) > flow.visits[name]:
                message = f"has {len(results)} results; the number of visits was {flow.visits[name]}"
                found.append(Difference(("results", name), message))
        return found

    def _compared_result(self, result: tuple[str, Any] | None) -> list[Difference]:
        expected = self._scenario.expect.result
        text, data = result or (self._last_turn.get("result", ""), self._last_turn.get("data"))
        wanted = expected if isinstance(expected, dict) else {"text": expected}
        return [
            Difference(("expect", "result"), f"expected the {kind} {_shown(wanted[kind])}, not {_shown(actual)}")
            for kind, actual in (("text", text), ("data", data))
            if kind in wanted and wanted[kind] != actual
        ]


def _error(ending: str, result: JsonObject) -> str:
    if ending == "done":
        return ""
    if ending == "denied":
        comment = f": {result['comment']}" if result.get("comment") else ""
        return "not approved before the deadline" if result.get("timeout") else f"denied{comment}"
    if ending == "timeout":
        return "not done within the time limit"
    return f"exit code {result['exit_code']}" if result.get("exit_code") else _DEFAULT_ERROR


def _shown(value: Any) -> str:
    return truncated(quoted(value) if isinstance(value, str) else text_of(value), _SHOWN_CHARS)


def _shown_path(path: tuple[str, ...] | list[str]) -> str:
    return " → ".join(path)
