"""Holds the state and the values of one workflow that is executed. Pure and synchronous."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from fsm_runner.errors import FsmRunnerError, UsageError
from fsm_runner.machine.defects import Path
from fsm_runner.machine.engine import Step
from fsm_runner.protocol.json_tree import is_deeper
from fsm_runner.protocol.wire import JsonObject
from fsm_runner.util.text import quoted
from fsm_runner.workflow.arguments import expanded
from fsm_runner.workflow.definition import Activity, Agent, Ending, Parameter, Result, State, has_type, type_name
from fsm_runner.workflow.expansion import CHOSEN, EXHAUSTED, INTERRUPTED, is_choice
from fsm_runner.workflow.file import LoadedWorkflow
from fsm_runner.workflow.program import GuardFault, Program, program_of
from fsm_runner.workflow.templates import ITEM_NAMES, TemplateError, expand, expand_text
from fsm_runner.workflow.values import LIST_LIMIT, bounded, readable

_Value = TypeVar("_Value")

_PARAMETER_LEVELS = 100


class RunFacts(msgspec.Struct, frozen=True):
    """The value `run`."""

    id: str
    session_id: str
    project_dir: str


class WorkflowFault(FsmRunnerError):
    """A guard or a template cannot be evaluated. The text has file, line and place. It ends the workflow as failed."""


class Interpreter:
    """The position of one workflow, and its values.

    `enter`, `end` and `interrupt` lead to a state with an activity, whose visit they count, or to a final one.
    They raise `WorkflowFault` if a guard cannot be evaluated. The interpreter must not be used after that.
    """

    def __init__(
        self,
        workflow: LoadedWorkflow,
        parameters: JsonObject,
        run: RunFacts,
        clean: Callable[[object], object] = lambda value: value,
    ) -> None:
        """`clean` removes secrets from a value. Raises `UsageError` if a parameter is missing or has the wrong type."""
        self.workflow = workflow
        self.visits: Counter[str] = Counter()
        """The number of visits of each state, including the current one."""
        self.values: dict[str, JsonObject] = {}
        """The values by name, the latest last."""
        self._clean = clean
        self._program: Program = program_of(workflow)
        self._model = self._program.machine.model()
        self._constants = {"params": _parameters(workflow, parameters), "run": msgspec.structs.asdict(run)}
        self._cause = ""
        """The error that led to the current state."""

    @property
    def state(self) -> str:
        return self._model.state

    @property
    def definition(self) -> State:
        """The declaration of the current state."""
        return self._program.states[self.state]

    @property
    def is_final(self) -> bool:
        return self._program.machine.is_final(self._model)

    @property
    def outcome(self) -> str | None:
        """How the workflow ended, `completed` or `failed`; None if it has not ended."""
        return self.workflow.spec.states[self.state].outcome

    @property
    def error(self) -> str:
        """The error of a final state that failed: its template, or the error that led to it. Raises `WorkflowFault`."""
        if self.outcome != "failed":
            return ""
        if (template := self.definition.error) is not None:
            return self._evaluated(("states", self.state, "error"), lambda: expand_text(template, self._names()))
        return self._cause or f"the workflow {quoted(self.workflow.definition.name)} ended in {quoted(self.state)}"

    def enter(self) -> list[Step]:
        """Enter the current state, which is the initial one or that of `restore`, and return the steps to another."""
        return self._settled()

    def arguments(self, item: object = msgspec.UNSET, index: int | None = None) -> Activity:
        """Return the activity of the current state with its templates expanded, and without `each`.

        Without an item, the texts of an activity with `each` that refer to `${item}` or `${index}` are still templates:
        call this again for each item. Raises `WorkflowFault` if a value is missing.
        """
        activity = self.definition.activity
        if activity is None:
            raise ValueError(f"the state {self.state!r} has no activity")
        names = self._names()
        keep: frozenset[str] = frozenset()
        if item is not msgspec.UNSET:
            names |= {"item": item, "index": index}
        elif isinstance(activity, Agent) and activity.each is not None:
            keep = ITEM_NAMES
        place = ("states", self.state, next(iter(self.definition.activities)))
        return self._evaluated(place, lambda: expanded(activity, names, keep=keep))

    def each(self) -> list[Any] | None:
        """Return the list for whose elements an agent's activity starts children; None: it starts one child.

        Raises `WorkflowFault` if the value is not a list.
        """
        activity = self.definition.activity
        if not isinstance(activity, Agent) or (template := activity.each) is None:
            return None
        place = ("states", self.state, "agent", "each")
        items = self._evaluated(place, lambda: expand(template, self._names()))
        if not isinstance(items, list):
            raise self._fault(place, f"the value of {quoted(str(template))} must be a list")
        if len(items) > LIST_LIMIT:
            raise self._fault(place, f"the list has {len(items):,} elements; at most {LIST_LIMIT:,} are possible")
        return items

    def end(self, ending: Ending, value: JsonObject) -> list[Step]:
        """Assign the value of the current state's activity, and return the steps to the next state.

        The time limit of an approval is a denial.
        """
        name = self.workflow.definition.value_of(self.state)
        self.values.pop(name, None)
        assigned: JsonObject = bounded(self._clean(value))
        self.values[name] = assigned
        self._cause = _error_in(assigned)
        late = self.workflow.spec.states[self.state].on_timeout
        event = late if ending == "timeout" and late is not None else ending
        return [self._fired(event), *self._settled()]

    def interrupt(self, error: str) -> list[Step]:
        """Follow `on_interrupted` to another state, or to `failed` with this error, and return the steps."""
        self._cause = error
        return [self._fired(INTERRUPTED), *self._settled()]

    def result(self) -> tuple[str, JsonObject | None] | None:
        """Return text and data of the run's result; None if the workflow declares none.

        Raises `WorkflowFault`, also if the data is no object: no coordinator accepts it.
        """
        if (result := self.workflow.definition.result) is None:
            return None
        data = self._evaluated(("result", "data"), lambda: expand(result.data, self._names()))
        if result.data is not None and not isinstance(data, dict):
            message = f"the value is of the type {type_name(data)}; the data of a result must be an object"
            raise self._fault(("result", "data"), f"{message}: name it in a table, as in {{ items = … }}")
        return self.result_text(), data

    def result_text(self) -> str:
        """Return the text of the run's result; empty if the workflow declares none. Raises `WorkflowFault`."""
        result = self.workflow.definition.result or Result()
        return self._evaluated(("result", "text"), lambda: expand_text(result.text, self._names()))

    def restore(self, state: str, visits: Mapping[str, int], values: Mapping[str, JsonObject]) -> None:
        """Set the position from the journal. `values` are in the order of their visits.

        If the state's visit is not among `visits`, `enter` is next. Raises `UsageError` if there is no such state.
        """
        if state not in self.workflow.spec.states:
            raise UsageError(f"the workflow {self.workflow.definition.name!r} has no state {state!r}")
        self._model.state = state
        self.visits = Counter(visits)
        self.values = dict(values)
        self._cause = _error_in(next(reversed(self.values.values()), {}))

    def _settled(self) -> list[Step]:
        """Follow choices and exhausted states until a state with an activity, or a final one."""
        steps: list[Step] = []
        passed: set[str] = set()
        while not self.is_final:
            state, limit = self.definition, self.definition.max_visits
            if not is_choice(state) and (limit is None or self.visits[self.state] < limit):
                self.visits[self.state] += 1
                break
            if self.state in passed:
                place = ("states", self.state)
                raise self._fault(place, "no activity is between two visits of this state, so the workflow would hang")
            passed.add(self.state)
            if not is_choice(state):
                used_up = f"the state {quoted(self.state)} has used up its `max_visits` ({limit})"
                last = _error_in(self.values.get(self.workflow.definition.value_of(self.state), {})) or self._cause
                self._cause = ": ".join(part for part in (used_up, last) if part)
            steps.append(self._fired(CHOSEN if is_choice(state) else EXHAUSTED))
        return steps

    def _fired(self, event: str) -> Step:
        try:
            self._model.facts = self._program.facts(self.state, event, self._names())
        except GuardFault as fault:
            raise self._fault(fault.at, str(fault)) from fault
        return self._program.machine.fire(self._model, event)

    def _names(self) -> dict[str, Any]:
        return {**self.values, **self._constants}

    def _evaluated(self, place: Path, evaluate: Callable[[], _Value]) -> _Value:
        try:
            return evaluate()
        except TemplateError as error:
            raise self._fault((*place, *error.at), str(error)) from error

    def _fault(self, place: Path, message: str) -> WorkflowFault:
        return WorkflowFault(str(self._program.file.defect(place, message)))


def _error_in(value: JsonObject) -> str:
    return "" if value.get("ok", True) else str(value.get("error", ""))


def _parameters(workflow: LoadedWorkflow, given: JsonObject) -> JsonObject:
    """Return the parameters of a run with the defaults. Raises `UsageError` if they do not match the declaration."""
    if is_deeper(given, _PARAMETER_LEVELS):
        raise UsageError(f"the parameters of the run are nested deeper than {_PARAMETER_LEVELS} levels")
    parameters: JsonObject = readable(given)
    for name, declared in workflow.definition.params.items():
        parameter = declared if isinstance(declared, Parameter) else Parameter(type=declared)
        if name not in parameters and parameter.default is not msgspec.UNSET:
            parameters[name] = parameter.default
        needs = f"the workflow {workflow.definition.name!r} needs the parameter {name!r}"
        if name not in parameters:
            there_are = ", ".join(map(repr, parameters)) or "no parameters"
            raise UsageError(f"{needs} ({parameter.type}); the run has {there_are}")
        if not has_type(parameters[name], parameter.type):
            found = type_name(parameters[name])
            hint = "" if parameter.type == "string" else f"; on a command line, {name}:=JSON gives it a type"
            raise UsageError(f"{needs} to be of the type {parameter.type}, not {found}{hint}")
    return parameters
