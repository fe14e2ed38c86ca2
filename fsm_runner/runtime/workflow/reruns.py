"""Starts runs that repeat another run of this runner from a state on (docs/workflows.md, "Running again")."""

import secrets
from collections.abc import Callable
from contextlib import closing
from typing import Protocol

from loguru import logger

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.errors import CoordinatorError
from fsm_runner.errors import FsmRunnerError, UsageError
from fsm_runner.journal.journal import Journal, JournalUnwritable
from fsm_runner.journal.reader import Reader
from fsm_runner.protocol.wire import JsonObject, Registration, RunCreated, RunRequest
from fsm_runner.runtime.workflow.rerun_plan import Replacement, RerunPlan, plan_of
from fsm_runner.util.threads import in_thread


class Runs(Protocol):
    """The part of `RunRegistry` that is needed."""

    def is_active(self, run_id: str) -> bool: ...

    async def was_claimed(self, run_id: str) -> bool: ...

    def stop_run(self, run_id: str, reason: str) -> None: ...


class Reruns:
    """Creates such runs at the coordinator.

    The session's id is chosen here, so the plan is on disk under that id before the coordinator knows the run. The
    claim of the session's run then finds it, in this process or a later one. A coordinator never sees a plan.
    """

    def __init__(
        self,
        api: CoordinatorApi,
        journal: Journal,
        registration: Registration,
        runs: Runs,
        is_leaving: Callable[[], bool],
    ) -> None:
        """`is_leaving`: whether the runner claims no more runs."""
        self._api = api
        self._journal = journal
        self._demands: JsonObject = {
            "hostname": registration.hostname,
            "project_dir": registration.project_dir,
            "executor_profile": registration.executor_profile,
            "tags": registration.tags,
        }
        self._runs = runs
        self._is_leaving = is_leaving

    async def start(self, run_id: str, state: str, replacement: Replacement | None) -> RunCreated:
        """Create the run, which begins in this state.

        Raises `UsageError` (see `plan_of`), `JournalUnwritable`, `JournalUnreadable`, and `FsmRunnerError` if the
        coordinator does not create the run.
        """
        if self._is_leaving():
            raise FsmRunnerError("the runner is leaving and claims no more runs: start it again first")
        await self._journal.flush()
        plan = await in_thread(self._plan_of, run_id, state, replacement)
        session_id = f"ses_{secrets.token_hex(8)}"
        self._journal.record_rerun(session_id, plan.workflow)
        try:
            await self._journal.flush()
        except JournalUnwritable:
            self._journal.delete_rerun(session_id)
            raise
        created = await self._created(session_id, plan)
        if created.session_id != session_id:
            await self._follow(session_id, created, plan)
        logger.info("{}: repeats {} from {} on (session {})", created.run_id, run_id, state, created.session_id)
        return created

    def _plan_of(self, run_id: str, state: str, replacement: Replacement | None) -> RerunPlan:
        if self._journal.path is None:
            raise FsmRunnerError("this runner has no journal on disk")
        with closing(Reader(self._journal.path)) as reader:
            plan = plan_of(reader, run_id, state, replacement)
        if plan is None:
            raise UsageError(f"{run_id} is not in the journal of this runner")
        return plan

    async def _created(self, session_id: str, plan: RerunPlan) -> RunCreated:
        request = RunRequest(
            type="start_session",
            session_id=session_id,
            agent_name=plan.agent,
            parameters=plan.parameters,
            project_dir=plan.workflow.project_dir,
            additional_demands=self._demands,
            scope=plan.scope,
        )
        try:
            return await self._api.create_run(request)
        except CoordinatorError as error:
            if error.may_have_arrived:
                raise FsmRunnerError(
                    f"the coordinator has not answered: {error}. If it has created the run, session {session_id} has it"
                ) from error
            self._journal.delete_rerun(session_id)
            raise FsmRunnerError(f"the coordinator has not created the run: {error}") from error

    async def _follow(self, session_id: str, created: RunCreated, plan: RerunPlan) -> None:
        """Bind the plan to the session that a coordinator has chosen against the request.

        Raises `FsmRunnerError` if the run was claimed already.
        """
        self._journal.delete_rerun(session_id)
        if self._runs.is_active(created.run_id) or await self._runs.was_claimed(created.run_id):
            self._runs.stop_run(created.run_id, "it began without its plan")
            raise FsmRunnerError(
                f"the coordinator has not given the session of {created.run_id} the wanted id, and the run began "
                "before this runner knew it. The run is stopped: try again"
            )
        self._journal.record_rerun(created.session_id, plan.workflow)
