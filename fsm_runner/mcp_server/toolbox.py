"""The implementation of the tools. It is independent of the MCP SDK: arguments and results are JSON values."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import msgspec
from loguru import logger

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.errors import CoordinatorError, Refused
from fsm_runner.coordinator_client.run_waiter import RunWaiter
from fsm_runner.errors import FsmRunnerError
from fsm_runner.executors.children import ChildBounds, unbounded
from fsm_runner.mcp_server import tools
from fsm_runner.mcp_server.caller import SESSION_HEADER, Caller
from fsm_runner.mcp_server.limits import Limits
from fsm_runner.mcp_server.results import (
    ToolFailure,
    as_tool_failures,
    failure_of,
    first_fitting,
    json_chars,
    result_of,
    truncate,
)
from fsm_runner.protocol import wire
from fsm_runner.protocol.wire import JsonObject
from fsm_runner.util.tasks import background_task
from fsm_runner.util.text import truncated

NAME_EXCERPT_CHARS = 100
LISTED_SKIPPED_IDS = 100

ToolResult = JsonObject | list[JsonObject]
ReportProgress = Callable[[float, str], Awaitable[None]]
"""Sends a progress notification to the client: seconds so far, and a text."""
Implementation = Callable[[Any, Caller, ReportProgress], Awaitable[ToolResult]]


class Toolbox:
    """The seven tools for one coordinator."""

    def __init__(self, api: CoordinatorApi, limits: Limits, child_bounds: ChildBounds = unbounded) -> None:
        self._api = api
        self._child_bounds = child_bounds
        self._limits = limits
        self._waiting: Counter[str | None] = Counter()
        """The number of waiting calls by calling session."""
        self._tools: dict[str, tuple[tools.Tool[Any], Implementation]] = {
            tool.name: (tool, implementation)
            for tool, implementation in (
                (tools.LIST_BLUEPRINTS, self._list_blueprints),
                (tools.LIST_SESSIONS, self._list_sessions),
                (tools.START, self._submit),
                (tools.RESUME, self._submit),
                (tools.GET_STATUS, self._get_status),
                (tools.GET_RESULT, self._get_result),
                (tools.DELETE_ALL, self._delete_all),
            )
        }

    async def call(
        self, name: str, arguments: JsonObject, caller: Caller, report_progress: ReportProgress
    ) -> ToolResult:
        """Run a tool. `report_progress` is called during long waits. Raises `ToolFailure` only."""
        if name not in self._tools:
            known = ", ".join(self._tools)
            raise ToolFailure(f"There is no tool {truncated(name, NAME_EXCERPT_CHARS)!r}. The tools are: {known}")
        tool, implementation = self._tools[name]
        return await implementation(tool.decode(arguments), caller, report_progress)

    async def _list_blueprints(self, _: tools.Arguments, caller: Caller, __: ReportProgress) -> list[JsonObject]:
        with as_tool_failures():
            agents = await self._api.agents(caller.tags)
        offers: list[JsonObject] = [msgspec.structs.asdict(agent) for agent in agents]
        listed = first_fitting(offers, self._limits.object_limit_chars)
        if len(listed) < len(offers):
            logger.warning("mcp: only {} of {} agents fit into one result", len(listed), len(offers))
        return listed

    async def _list_sessions(self, _: tools.Arguments, __: Caller, ___: ReportProgress) -> JsonObject:
        with as_tool_failures():
            found = await self._api.sessions()
        sessions: list[JsonObject] = [msgspec.structs.asdict(session) for session in found.sessions]
        listed = first_fitting(sessions, self._limits.object_limit_chars)
        if len(listed) == len(sessions) and not found.truncated:
            return {"sessions": listed}
        total = f"more than {len(sessions):,}" if found.truncated else f"{len(sessions):,}"
        return {"sessions": listed, "note": f"the first {len(listed):,} of {total} sessions"}

    async def _get_status(self, arguments: tools.OneSession, _: Caller, __: ReportProgress) -> JsonObject:
        with as_tool_failures(session_id=arguments.session_id):
            return {"status": await self._api.session_status(arguments.session_id)}

    async def _get_result(self, arguments: tools.OneSession, _: Caller, __: ReportProgress) -> JsonObject:
        with as_tool_failures(session_id=arguments.session_id):
            result = await self._api.session_result(arguments.session_id)
        return result_of(arguments.session_id, result, self._limits)

    async def _delete_all(self, _: tools.Arguments, __: Caller, ___: ReportProgress) -> JsonObject:
        """Delete the sessions one by one. A session that another client deletes meanwhile is not counted."""
        deleted = 0
        skipped: list[str] = []
        try:
            async for page in self._api.session_pages():
                for session in page:
                    try:
                        await self._api.delete_session(session.session_id)
                        deleted += 1
                    except Refused as refusal:
                        if refusal.status == httpx.codes.CONFLICT:
                            skipped.append(session.session_id)
                        elif refusal.status != httpx.codes.NOT_FOUND:
                            raise
        except CoordinatorError as fault:
            raise failure_of(fault, "Not all sessions were deleted; try again later.", deleted=deleted) from fault
        return {"deleted": deleted, "skipped": len(skipped), "skipped_session_ids": skipped[:LISTED_SKIPPED_IDS]}

    async def _submit(
        self, arguments: tools.StartSession | tools.ResumeSession, caller: Caller, report_progress: ReportProgress
    ) -> JsonObject:
        """Start or resume a session, in one of the three modes."""
        fields = msgspec.structs.asdict(arguments)
        request = wire.RunRequest(
            type="start_session" if isinstance(arguments, tools.StartSession) else "resume_session",
            execution_mode=fields.pop("mode"),
            parent_session_id=caller.session_id,
            additional_demands=caller.additional_demands,
            **fields,
        )
        self._check(request.parameters, request.execution_mode, caller)
        run = await self._create_run(request)
        if request.execution_mode != "sync":
            return {"session_id": run.session_id, "status": "pending"}
        self._waiting[caller.session_id] += 1
        try:
            return await self._wait_for(run, report_progress)
        finally:
            self._waiting[caller.session_id] -= 1
            self._waiting = +self._waiting  # drops the sessions without a waiting call

    async def _create_run(self, request: wire.RunRequest) -> wire.RunCreated:
        """Submit the run, if the calling session may start one. A client without a session has no bounds."""
        advice = "The session may have started nevertheless: look it up with list_agent_sessions."
        if request.type == "resume_session" or request.parent_session_id is None:
            with as_tool_failures(advice):
                return await self._api.create_run(request)
        try:
            async with self._child_bounds(request.parent_session_id) as started:
                with as_tool_failures(advice):
                    run = await self._api.create_run(request)
                started(run.session_id)
                return run
        except CoordinatorError as fault:
            raise failure_of(fault) from fault
        except FsmRunnerError as refusal:
            raise ToolFailure(str(refusal)) from refusal

    def _check(self, parameters: JsonObject, mode: tools.Mode, caller: Caller) -> None:
        """Raise `ToolFailure` before anything is started."""
        size_chars, limit_chars = json_chars(parameters), self._limits.parameters_limit_chars
        if size_chars > limit_chars:
            raise ToolFailure(
                f"The parameters have {size_chars:,} characters of JSON; at most {limit_chars:,} are permitted."
                " Write large content to a file and pass its path."
            )
        if mode == "async_callback" and caller.session_id is None:
            raise ToolFailure(
                f"The mode async_callback needs the header {SESSION_HEADER} with the id of the session to resume, which"
                " this client does not send. Use sync or async_poll."
            )
        own, total = self._waiting[caller.session_id], self._waiting.total()
        is_full = own >= self._limits.waiting_calls_of_a_session or total >= self._limits.waiting_calls
        if mode == "sync" and is_full:
            raise ToolFailure(
                f"Too many calls in sync mode are waiting: {total}, {own} of them of this session. Use async_poll, or"
                " try again later."
            )

    async def _wait_for(self, run: wire.RunCreated, report_progress: ReportProgress) -> JsonObject:
        waiter = RunWaiter(self._api, run, self._limits)
        reporting = self._report_regularly(waiter, report_progress)
        try:
            async with asyncio.timeout(self._limits.sync_limit_s):
                async with background_task(reporting, f"mcp-progress-{run.run_id}"):
                    ended = await waiter.wait()
                if ended.status == "completed":
                    return result_of(run.session_id, await waiter.result(), self._limits)
                if ended.status == "stopped":
                    error = "The session was stopped before it had a result."
                else:
                    error = ended.error or "The run failed without a reason."
                raise ToolFailure(truncate(error, self._limits.result_text_limit_chars), session_id=run.session_id)
        except TimeoutError:
            raise ToolFailure(
                f"The session has not ended within {self._limits.sync_limit_s:g} seconds and continues. Query it later"
                " with get_agent_session_status and get_agent_session_result.",
                session_id=run.session_id,
            ) from None
        except Refused as refusal:
            raise failure_of(refusal, session_id=run.session_id) from refusal

    async def _report_regularly(self, waiter: RunWaiter, report_progress: ReportProgress) -> None:
        began = time.monotonic()
        while True:
            await asyncio.sleep(self._limits.progress_interval_s)
            so_far_s = time.monotonic() - began
            await report_progress(so_far_s, f"running for {so_far_s:.0f} s (status {waiter.status_text})")
