"""The tools that start sessions and resume them, in their three modes."""

import asyncio
from collections import Counter

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.errors import CoordinatorError, Refused
from fsm_runner.mcp_server.caller import SESSION_HEADER, Caller
from fsm_runner.mcp_server.errors import ToolFailure, failure_of
from fsm_runner.mcp_server.limits import Limits
from fsm_runner.mcp_server.run_waiter import Report, RunWait
from fsm_runner.mcp_server.tools import Mode, ResumeSession, StartSession
from fsm_runner.mcp_server.truncation import cut_text, json_chars, result_of
from fsm_runner.protocol import wire
from fsm_runner.protocol.wire import JsonObject

MAYBE_STARTED = "Whether it began all the same is not known: list_agent_sessions tells."


class Starting:
    def __init__(self, api: CoordinatorApi, limits: Limits) -> None:
        self._api = api
        self._limits = limits
        self._waiting: Counter[str | None] = Counter()
        """How many calls wait, by the session that calls."""

    async def start(self, arguments: StartSession, caller: Caller, report: Report) -> JsonObject:
        request = wire.RunRequest(
            type="start_session",
            parameters=arguments.parameters,
            agent_name=arguments.agent_name,
            project_dir=arguments.project_dir,
            parent_session_id=caller.session_id,
            execution_mode=arguments.mode,
            additional_demands=caller.additional_demands,
        )
        return await self._run(request, caller, report)

    async def resume(self, arguments: ResumeSession, caller: Caller, report: Report) -> JsonObject:
        request = wire.RunRequest(
            type="resume_session",
            parameters=arguments.parameters,
            session_id=arguments.session_id,
            parent_session_id=caller.session_id,
            execution_mode=arguments.mode,
            additional_demands=caller.additional_demands,
        )
        return await self._run(request, caller, report)

    async def _run(self, request: wire.RunRequest, caller: Caller, report: Report) -> JsonObject:
        self._check(request.parameters, request.execution_mode, caller)
        try:
            run = await self._api.create_run(request)
        except CoordinatorError as fault:
            raise failure_of(fault, MAYBE_STARTED) from fault
        if request.execution_mode != "sync":
            return {"session_id": run.session_id, "status": "pending"}
        self._waiting[caller.session_id] += 1
        try:
            return await self._waited_for(run, report)
        finally:
            self._waiting[caller.session_id] -= 1
            self._waiting = +self._waiting  # without the sessions of which none waits

    def _check(self, parameters: JsonObject, mode: Mode, caller: Caller) -> None:
        """Raises `ToolFailure`, before anything is started."""
        size_chars, limit_chars = json_chars(parameters), self._limits.parameters_limit_chars
        if size_chars > limit_chars:
            raise ToolFailure(
                f"The parameters are {size_chars:,} characters of JSON; no more than {limit_chars:,} are taken."
                " Put what is large into a file and pass its path."
            )
        if mode == "async_callback" and caller.session_id is None:
            raise ToolFailure(
                f"The mode async_callback needs the header {SESSION_HEADER}, which names the session to be called"
                " back; this connection does not send it. Use sync or async_poll."
            )
        if mode == "sync":
            self._check_waiting(caller)

    def _check_waiting(self, caller: Caller) -> None:
        """Raises `ToolFailure`."""
        own, all_waiting = self._waiting[caller.session_id], self._waiting.total()
        if own >= self._limits.waiting_calls_of_a_session or all_waiting >= self._limits.waiting_calls:
            raise ToolFailure(
                f"{all_waiting} calls of mode sync wait already, {own} of them of this session, and no more can. Use"
                " async_poll, or try later."
            )

    async def _waited_for(self, run: wire.RunCreated, report: Report) -> JsonObject:
        wait = RunWait(self._api, run, self._limits, report)
        try:
            async with asyncio.timeout(self._limits.sync_limit_s):
                ended = await wait.end()
                if ended.status != "completed":
                    raise ToolFailure(self._failure_text(ended), session_id=run.session_id)
                return result_of(run.session_id, await wait.result(), self._limits)
        except TimeoutError:
            raise ToolFailure(
                f"The session has not ended within {self._limits.sync_limit_s:g} seconds and goes on. Ask for it later"
                " with get_agent_session_status and get_agent_session_result.",
                session_id=run.session_id,
            ) from None
        except Refused as refusal:
            raise failure_of(refusal, session_id=run.session_id) from refusal

    def _failure_text(self, ended: wire.RunState) -> str:
        if ended.status == "stopped":
            return "The session was stopped before it had a result."
        return cut_text(ended.error or "The run failed without a reason.", self._limits.result_text_limit_chars)
