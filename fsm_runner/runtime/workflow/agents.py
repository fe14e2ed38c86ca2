"""The activity `agent`: children, which are runs of other agents."""

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from loguru import logger

from fsm_runner.errors import FsmRunnerError
from fsm_runner.process.child.child import Child
from fsm_runner.protocol.statuses import StopSignal
from fsm_runner.protocol.wire import JsonObject
from fsm_runner.runtime.workflow.children import NOT_STARTED, ChildEnd, ChildRuns
from fsm_runner.runtime.workflow.context import WorkflowContext
from fsm_runner.runtime.workflow.data import defect_of
from fsm_runner.runtime.workflow.step import Ended, Visit
from fsm_runner.runtime.workflow.turn import TurnResult
from fsm_runner.workflow.definition import Activity, Agent
from fsm_runner.workflow.values import bounded

STOP_LIMIT_S = 25.0
"""How long a stop waits for the ends of children. A run has 30 s for its stop (`specs/run.toml`)."""


class Templates(Protocol):
    """`Interpreter`, for the arguments of children."""

    def each(self) -> list[Any] | None:
        """Return the elements of `each`; None without it. Raises an `FsmRunnerError`."""

    def arguments(self, item: object = ..., index: int | None = ...) -> Activity:
        """Return the arguments for an element. Raises an `FsmRunnerError`."""


class AgentStep:
    """One child, or one for each element of a list.

    After an interruption, `perform` finds the children that were started. Until `aclose`, they are watched, also if
    `perform` is cancelled. `stop` may be called while `perform` runs, which then returns the value so far.
    """

    def __init__(
        self, visit: Visit, context: WorkflowContext, templates: Templates, *, max_children: int | None = None
    ) -> None:
        """`max_children`: how many children the visit may start; None: any number."""
        if not isinstance(visit.arguments, Agent):
            raise TypeError(f"not an agent: {visit.arguments}")
        self._visit = visit
        self._agent = visit.arguments
        self._context = context
        self._templates = templates
        self._max_children = max_children
        self._is_stopping = False
        self._items: Sequence[Any] | None = None
        """The elements of `each`; None without it."""
        self._arguments: list[Agent] = []
        self._runs: ChildRuns | None = None
        self._working: asyncio.Task[Ended] | None = None

    @property
    def process(self) -> Child | None:
        return None

    @property
    def started(self) -> int:
        """The number of children that the visit has started."""
        return 0 if self._runs is None else self._runs.started

    async def perform(self) -> Ended:
        if self._working is None:
            name = f"{self._visit.run.run_id} children of {self._visit.state_name}"
            self._working = asyncio.create_task(self._work(), name=name)
        return await asyncio.shield(self._working)

    async def stop(self) -> StopSignal:
        self._is_stopping = True
        try:
            runs = self._prepared()
        except FsmRunnerError:  # then no child was started
            return "shutdown"
        runs.is_stopping = True
        await self._stop_children(runs, self._working)
        return "shutdown"

    async def aclose(self) -> None:
        if self._working is not None:
            await _cancelled([self._working])

    def _prepared(self) -> ChildRuns:
        """Evaluate the arguments of all children. Raises an `FsmRunnerError` if that is not possible."""
        if self._runs is None:
            self._items = self._templates.each()
            items = [msgspec.UNSET] if self._items is None else self._items
            activities = [self._templates.arguments(item, index) for index, item in enumerate(items)]
            self._arguments = [activity for activity in activities if isinstance(activity, Agent)]
            try:
                self._runs = ChildRuns(self._visit, self._context, len(self._arguments))
            except msgspec.DecodeError as defect:
                raise FsmRunnerError(
                    f"{self._visit.state_name}: the journal does not tell which children were started: {defect}"
                ) from defect
        return self._runs

    async def _work(self) -> Ended:
        runs = self._prepared()
        count = len(self._arguments)
        if (defect := self._bounds_defect(count)) is not None:
            return Ended("error", {"ok": False, "error": defect, **self._fields([])})
        at_once = asyncio.Semaphore(self._agent.at_once or max(count, 1))
        children = [
            asyncio.create_task(self._child(runs, index, at_once), name=f"child {index} of {self._visit.run.run_id}")
            for index in range(count)
        ]
        try:
            ended = await asyncio.gather(*children)
        except FsmRunnerError:
            await _cancelled(children)
            runs.is_stopping = True
            await self._stop_children(runs, None)
            raise
        finally:
            await _cancelled(children)
        return self._ended(ended)

    def _bounds_defect(self, count: int) -> str | None:
        if self._max_children is not None and count > self._max_children:
            return (
                f"{count} children are wanted, but the workflow may start only {self._max_children} more "
                "(budget.max_children)"
            )
        return None

    async def _child(self, runs: ChildRuns, index: int, at_once: asyncio.Semaphore) -> JsonObject:
        """Start a child, wait for its end, and return its fields."""
        agent = self._arguments[index]
        async with at_once:
            if not self._is_stopping or runs[index].session_id:
                await runs.start(index, agent)
            child = runs[index]
            end = await runs.end_of(index) if child.run_id else ChildEnd(child.refusal or NOT_STARTED)
            fields = await self._child_fields(end)
            if self._items is not None:  # the results of many children may be long
                fields = bounded(fields)
            fields["session_id"] = child.session_id if child.run_id else ""
            if agent.worktree:
                kept = await runs.settle_worktree(index, agent, has_failed=not fields["ok"])
                fields["branch"], fields["worktree"] = ("", "") if kept is None else (kept.branch, kept.path)
            return fields

    async def _child_fields(self, end: ChildEnd) -> JsonObject:
        text, schema = end.result.result_text, self._visit.schema
        result = TurnResult(text if isinstance(text, str) else "", end.result.result_data)
        fields: JsonObject = {"ok": not end.error, "error": end.error, "result": result.shown}
        if end.error or schema is None:
            return fields
        data = result.structured
        # The driver validates the data of a single child.
        if self._items is not None and (defect := await defect_of(data, schema, self._context.checker)) is not None:
            return {**fields, "ok": False, "error": defect}
        return {**fields, "data": data}

    def _ended(self, children: list[JsonObject]) -> Ended:
        failures = [f"{index}: {child['error']}" for index, child in enumerate(children) if not child["ok"]]
        if self._items is None:
            (child,) = children
            error = child["error"] and f"{self._name}: {child['error']}"
            return Ended("error" if error else "done", {**child, "error": error})
        error = ""
        if len(failures) > self._agent.may_fail:
            error = (
                f"{self._name}: {len(failures)} of {len(children)} children failed, and {self._agent.may_fail} "
                f"may; child {failures[0]}"
            )
        return Ended("error" if error else "done", {"ok": not error, "error": error, **self._fields(children)})

    @property
    def _name(self) -> str:
        """The name of the children's agent, for errors."""
        return self._agent.name or self._visit.run.agent_name or "the child"

    def _fields(self, children: list[JsonObject]) -> JsonObject:
        """Return the fields of the value besides `ok` and `error`."""
        if self._items is None:
            return {"result": "", "session_id": ""}
        items = [{"item": item, **child} for item, child in zip(self._items, children, strict=False)]
        return {"items": items, "failed": sum(not child["ok"] for child in children)}

    async def _stop_children(self, runs: ChildRuns, working: "asyncio.Task[Ended] | None") -> None:
        """Stop all children, and wait for their ends. `working`: the task that waits for them, if there is one."""
        run_id = self._visit.run.run_id
        stopping: list[asyncio.Task[Any]] = [
            asyncio.create_task(
                self._stop_child(runs, index, has_waiter=working is not None), name=f"stop of child {index} of {run_id}"
            )
            for index in range(len(self._arguments))
        ]
        ending = [*stopping, *([] if working is None else [working])]
        if not ending:
            return
        _, late = await asyncio.wait(ending, timeout=STOP_LIMIT_S)
        await _cancelled(stopping)
        if late:
            logger.warning(
                "{}: not all children of the state {} have ended {:g} s after their stop",
                *(run_id, self._visit.state_name, STOP_LIMIT_S),
            )

    async def _stop_child(self, runs: ChildRuns, index: int, *, has_waiter: bool) -> None:
        if runs[index].session_id:
            await runs.start(index, self._arguments[index])  # it finds the child, or waits until it was created
        if runs[index].run_id:
            await runs.stop(index)
            if not has_waiter:
                await runs.end_of(index)


async def _cancelled(tasks: Sequence["asyncio.Task[Any]"]) -> None:
    """Cancel the tasks that have not ended, and wait for their end."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # the caller of `perform` gets it
