"""The tools that look at agents and sessions, and the one that deletes."""

import msgspec
from loguru import logger

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.errors import CoordinatorError, Refused
from fsm_runner.mcp_server.caller import Caller
from fsm_runner.mcp_server.errors import failure_of
from fsm_runner.mcp_server.limits import Limits
from fsm_runner.mcp_server.run_waiter import Report
from fsm_runner.mcp_server.tools import Arguments, OneSession
from fsm_runner.mcp_server.truncation import fitting, result_of
from fsm_runner.protocol.wire import JsonObject

NOT_FOUND = 404
CONFLICT = 409
LISTED_SKIPPED_IDS = 100


class Looking:
    def __init__(self, api: CoordinatorApi, limits: Limits) -> None:
        self._api = api
        self._limits = limits

    async def blueprints(self, _: Arguments, caller: Caller, __: Report) -> list[JsonObject]:
        try:
            agents = await self._api.agents(caller.tags)
        except CoordinatorError as fault:
            raise failure_of(fault) from fault
        offers: list[JsonObject] = [msgspec.structs.asdict(agent) for agent in agents]
        shown = fitting(offers, self._limits.object_limit_chars)
        if len(shown) < len(offers):
            logger.warning("mcp: only {} of {} agents have room in one answer", len(shown), len(offers))
        return shown

    async def sessions(self, _: Arguments, __: Caller, ___: Report) -> JsonObject:
        try:
            sessions = await self._api.sessions()
        except CoordinatorError as fault:
            raise failure_of(fault) from fault
        listed = [msgspec.structs.asdict(session) for session in sessions]
        shown = fitting(listed, self._limits.object_limit_chars)
        if len(shown) == len(listed):
            return {"sessions": shown}
        return {"sessions": shown, "note": f"the first {len(shown):,} of {len(listed):,} sessions"}

    async def status(self, arguments: OneSession, _: Caller, __: Report) -> JsonObject:
        try:
            return {"status": await self._api.session_status(arguments.session_id)}
        except CoordinatorError as fault:
            raise failure_of(fault, session_id=arguments.session_id) from fault

    async def result(self, arguments: OneSession, _: Caller, __: Report) -> JsonObject:
        try:
            result = await self._api.session_result(arguments.session_id)
        except CoordinatorError as fault:
            raise failure_of(fault, session_id=arguments.session_id) from fault
        return result_of(arguments.session_id, result, self._limits)

    async def delete_all(self, _: Arguments, __: Caller, ___: Report) -> JsonObject:
        """One after another. One that somebody else has deleted meanwhile counts as neither."""
        deleted = 0
        skipped: list[str] = []
        try:
            for session in await self._api.sessions():
                try:
                    await self._api.delete_session(session.session_id)
                    deleted += 1
                except Refused as refusal:
                    if refusal.status == CONFLICT:
                        skipped.append(session.session_id)
                    elif refusal.status != NOT_FOUND:
                        raise
        except CoordinatorError as fault:
            raise failure_of(fault, "Not all sessions were deleted; try again later.", deleted=deleted) from fault
        return {"deleted": deleted, "skipped": len(skipped), "skipped_session_ids": skipped[:LISTED_SKIPPED_IDS]}
