"""Starts, finds and stops the children of one visit (docs/workflows.md, "Children and worktrees")."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import httpx
import msgspec
from loguru import logger

from fsm_runner.coordinator_client.errors import CoordinatorError, Refused
from fsm_runner.coordinator_client.run_waiter import RunWaiter, is_final
from fsm_runner.errors import FsmRunnerError
from fsm_runner.protocol.json_text import encode_json
from fsm_runner.protocol.statuses import TERMINAL_RUN_STATUSES
from fsm_runner.protocol.wire import Run, RunCreated, RunRequest, SessionResult
from fsm_runner.runtime.workflow.context import WorkflowContext
from fsm_runner.runtime.workflow.step import Visit
from fsm_runner.runtime.workflow.worktrees import Worktree, WorktreeFailed, Worktrees, worktree_name
from fsm_runner.util.retry import Waits
from fsm_runner.workflow.definition import Agent

REFUSALS_LIMIT = 5
"""How often a call is repeated that the coordinator may refuse only because it has not finished an earlier one."""
LOOK_UPS_PER_S = 10
"""How often children without an event stream are looked up, all of a visit together."""
NOT_STARTED = "the child was not started, because its workflow was stopped"


class ChildProgress(msgspec.Struct, omit_defaults=True):
    """What is known about one child. The journal has it before and after the child is created."""

    session_id: str = ""
    """Empty: its creation has not begun. The chosen id, and that of the coordinator once it has answered."""
    run_id: str = ""
    """Empty: the coordinator has not answered."""
    refusal: str = ""
    """Why it was not started."""
    is_unclear: bool = False
    """Whether it may have been started nevertheless."""
    worktree: Worktree | None = None


class _Progress(msgspec.Struct, omit_defaults=True):
    children: list[ChildProgress]
    honours_ids: bool = False
    """Whether the coordinator has given a session the id that was chosen for it."""


class ChildEnd(msgspec.Struct, frozen=True):
    """How a child ended: with a result, or with an error, which is not empty."""

    error: str = ""
    result: SessionResult = SessionResult()


class _Unclear(FsmRunnerError):
    """It is not possible to find out whether a child was started."""


def child_session_id(run_id: str, state: str, visit: int, index: int) -> str:
    """Return the id of a child's session, which is the same in each process of the runner."""
    return _id_prefix(run_id) + _hash([state, visit, index])


def _id_prefix(run_id: str) -> str:
    """Return the beginning of the ids of all children of a run."""
    return f"ses_{_hash(run_id)}"


def _hash(value: object) -> str:
    return hashlib.blake2b(encode_json(value), digest_size=8).hexdigest()


class ChildRuns:
    """The children of one visit, by index."""

    def __init__(self, visit: Visit, context: WorkflowContext, count: int) -> None:
        """Raises msgspec.DecodeError if the progress of the visit is not that of as many children."""
        self._visit = visit
        self._context = context
        self._progress = _Progress([ChildProgress() for _ in range(count)])
        if visit.progress is not None:
            self._progress = msgspec.json.decode(visit.progress, type=_Progress)
        if len(self._progress.children) != count:
            raise msgspec.DecodeError(f"it has {len(self._progress.children)} children instead of {count}")
        look_up = context.waits.look_up
        look_up = msgspec.structs.replace(look_up, cap_s=max(look_up.cap_s, count / LOOK_UPS_PER_S))
        self._waits = msgspec.structs.replace(context.waits, look_up=look_up)
        self._creating = asyncio.Lock()
        """One child is created at a time. So a child that the progress does not name is the one being created."""
        self.is_stopping = False
        """Whether no further child may start."""

    def __getitem__(self, index: int) -> ChildProgress:
        return self._progress.children[index]

    @property
    def started(self) -> int:
        """The number of children that were started, or may have been."""
        children = self._progress.children
        return sum(bool(child.session_id) and (child.is_unclear or not child.refusal) for child in children)

    async def start(self, index: int, agent: Agent) -> None:
        """Start the child, or find it. Then its progress has a run id or a refusal. Outages are waited for.

        Raises `JournalUnwritable`.
        """
        child = self[index]
        async with self._creating:
            if child.run_id or child.refusal:
                return
            may_exist = bool(child.session_id)
            if not may_exist:
                await self._begin(index, child, agent)
            if not child.refusal:
                await self._create(child, self._request(child, agent), may_exist=may_exist)
            await self._save()

    async def end_of(self, index: int) -> ChildEnd:
        """Return how a child that was started has ended, once it has."""
        waiter = self._waiter(index)
        try:
            state = await waiter.wait()
            if state.status == "completed":
                return ChildEnd(result=await self._result(waiter))
        except Refused as refusal:
            return ChildEnd(f"the child cannot be looked up: {refusal}")
        if state.status == "stopped":
            return ChildEnd(state.error or "the child was stopped")
        return ChildEnd(state.error or "the child failed without a reason")

    async def stop(self, index: int) -> None:
        """Request the stop of a child that was started."""
        waits = Waits(self._waits.look_up)
        while True:
            try:
                await self._context.api.stop_run(self[index].run_id)
                return
            except CoordinatorError as fault:
                if is_final(fault):  # it has ended, or is being stopped
                    return
                logger.debug("{}: a child cannot be stopped yet: {}", self._visit.run.run_id, fault)
            await asyncio.sleep(waits.next_s())

    async def settle_worktree(self, index: int, agent: Agent, *, has_failed: bool) -> Worktree | None:
        """Remove the worktree of a child if nothing was changed in it. Return it if it stays, as after a failure."""
        child = self[index]
        may_be_of_use = has_failed and (bool(child.run_id) or child.is_unclear)
        if child.worktree is None or may_be_of_use:
            return child.worktree
        return await self._worktrees(agent).settle(child.worktree)

    def _waiter(self, index: int) -> RunWaiter:
        run = RunCreated(run_id=self[index].run_id, session_id=self[index].session_id)
        return RunWaiter(self._context.api, run, self._waits, self._context.streams)

    async def _begin(self, index: int, child: ChildProgress, agent: Agent) -> None:
        """Prepare the creation. Until this has returned, no child can exist."""
        place = (self._visit.run.run_id, self._visit.state_name, self._visit.number, index)
        if agent.worktree:
            try:
                child.worktree = await self._worktrees(agent).add(worktree_name(*place))
            except WorktreeFailed as fault:
                child.refusal = str(fault)
                return
        child.session_id = child_session_id(*place)
        await self._save()

    async def _create(self, child: ChildProgress, request: RunRequest, *, may_exist: bool) -> None:
        waits, refusals = Waits(self._waits.look_up), 0
        while True:
            try:
                run = await self._find(child, request) if may_exist else None
                if run is None and self.is_stopping:
                    child.refusal = NOT_STARTED
                    return
                run = run or await self._submit(request)
                self._progress.honours_ids |= run.session_id == child.session_id
                child.run_id, child.session_id = run.run_id, run.session_id
                return
            except CoordinatorError as fault:
                refusals += is_final(fault)
                # 409: an earlier attempt has created the session, perhaps not yet its run.
                is_conflict = isinstance(fault, Refused) and fault.status == httpx.codes.CONFLICT
                if is_final(fault) and not (is_conflict and refusals < REFUSALS_LIMIT):
                    child.refusal = str(fault)
                    return
                may_exist = may_exist or is_conflict or fault.may_have_arrived
                logger.debug("{}: a child cannot be started yet: {}", self._visit.run.run_id, fault)
            except FsmRunnerError as refusal:  # also of `child_bounds`
                child.refusal, child.is_unclear = str(refusal), isinstance(refusal, _Unclear)
                return
            await asyncio.sleep(waits.next_s())

    async def _submit(self, request: RunRequest) -> RunCreated:
        async with self._context.child_bounds(self._visit.run.session_id) as started:
            run = await self._context.api.create_run(request)
            started(run.session_id)
            return run

    async def _find(self, child: ChildProgress, request: RunRequest) -> RunCreated | Run | None:
        """Return the run of a child whose creation has begun; None if there is none. Raises `_Unclear`."""
        runs = [run for run in await self._context.api.children(self._visit.run.session_id) if run.type == request.type]
        prefix = _id_prefix(self._visit.run.run_id)
        self._progress.honours_ids |= any(run.session_id.startswith(prefix) for run in runs)
        if self._progress.honours_ids:
            return next((run for run in runs if run.session_id == child.session_id), None)
        known = {each.run_id for each in self._progress.children}
        since = self._visit.run.claimed_at or ""
        # Both times are the coordinator's. All children of earlier visits have ended.
        alike = [
            run
            for run in runs
            if run.run_id not in known and (run.created_at or since) >= since and _is_alike(run, request)
        ]
        still_open = next((run for run in alike if run.status not in TERMINAL_RUN_STATUSES), None)
        if still_open is None and alike:
            raise _Unclear(
                "the answer of the coordinator to the creation of a child was lost, and the coordinator does not keep "
                f"the id that was chosen for its session: run {alike[-1].run_id} may be this child or an earlier one, "
                "so the child was not started again"
            )
        return still_open

    async def _result(self, waiter: RunWaiter) -> SessionResult:
        """Raises `Refused`."""
        waits, refusals = Waits(self._waits.look_up), 0
        while True:
            try:
                return await waiter.result()
            except Refused:  # the coordinator may end the session after the run
                refusals += 1
                if refusals == REFUSALS_LIMIT:
                    raise
            await asyncio.sleep(waits.next_s())

    def _request(self, child: ChildProgress, agent: Agent) -> RunRequest:
        return RunRequest(
            type="start_session",
            session_id=child.session_id,
            agent_name=agent.name or self._visit.run.agent_name,
            parameters=agent.parameters,
            project_dir=str(self._project_dir(agent)) if child.worktree is None else child.worktree.folder,
            parent_session_id=self._visit.run.session_id,
            execution_mode="async_poll",
        )

    def _worktrees(self, agent: Agent) -> Worktrees:
        return Worktrees(self._context.git, self._project_dir(agent))

    def _project_dir(self, agent: Agent) -> Path:
        return self._visit.project_dir / (agent.project_dir or "")

    async def _save(self) -> None:
        self._visit.save(msgspec.json.encode(self._progress))
        await self._context.flush()


def _is_alike(run: Run, request: RunRequest) -> bool:
    fields = ("agent_name", "parameters", "project_dir")
    return all(_plain(getattr(run, field)) == _plain(getattr(request, field)) for field in fields)


def _plain(value: Any) -> Any:
    """Return a value as it is after its way through JSON."""
    return msgspec.json.decode(encode_json(value))
