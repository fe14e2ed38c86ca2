"""A call of a tool by its name. Nothing here knows the MCP SDK: arguments come as JSON objects, results go as such."""

from collections.abc import Awaitable, Callable
from typing import Any

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.mcp_server import tools
from fsm_runner.mcp_server.caller import Caller
from fsm_runner.mcp_server.errors import ToolFailure
from fsm_runner.mcp_server.limits import Limits
from fsm_runner.mcp_server.query_tools import Looking
from fsm_runner.mcp_server.run_tools import Starting
from fsm_runner.mcp_server.run_waiter import Report
from fsm_runner.protocol.wire import JsonObject

SHOWN_NAME_CHARS = 100

ToolResult = JsonObject | list[JsonObject]
Work = Callable[[Any, Caller, Report], Awaitable[ToolResult]]


class Toolbox:
    """The seven tools for one coordinator."""

    def __init__(self, api: CoordinatorApi, limits: Limits) -> None:
        looking, starting = Looking(api, limits), Starting(api, limits)
        self._works: dict[str, tuple[tools.Tool[Any], Work]] = {
            tool.name: (tool, work)
            for tool, work in (
                (tools.LIST_BLUEPRINTS, looking.blueprints),
                (tools.LIST_SESSIONS, looking.sessions),
                (tools.START, starting.start),
                (tools.RESUME, starting.resume),
                (tools.GET_STATUS, looking.status),
                (tools.GET_RESULT, looking.result),
                (tools.DELETE_ALL, looking.delete_all),
            )
        }

    async def call(self, name: str, arguments: JsonObject, caller: Caller, report: Report) -> ToolResult:
        """`report` is told how a long wait is getting on. Raises `ToolFailure`, nothing else."""
        if name not in self._works:
            raise ToolFailure(f"There is no tool {name[:SHOWN_NAME_CHARS]!r}. There are: {', '.join(self._works)}")
        tool, work = self._works[name]
        return await work(tool.decoded(arguments), caller, report)
