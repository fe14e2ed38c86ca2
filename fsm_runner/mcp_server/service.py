"""The MCP SDK over our tools: streamable HTTP on a listening socket. Loaded with the first connection."""

import contextlib
import socket
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any

import anyio
import mcp.types as types
import msgspec
from loguru import logger
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.lowlevel.server import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from sse_starlette import sse

from fsm_runner import __version__
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.http_server.connection import Bounds
from fsm_runner.http_server.server import WebServer
from fsm_runner.mcp_server.addresses import Addresses
from fsm_runner.mcp_server.caller import Caller, caller_of
from fsm_runner.mcp_server.calls import CallKey, Calls
from fsm_runner.mcp_server.errors import ToolFailure
from fsm_runner.mcp_server.limits import Limits
from fsm_runner.mcp_server.middleware import Front
from fsm_runner.mcp_server.run_waiter import Report
from fsm_runner.mcp_server.toolbox import Toolbox, ToolResult
from fsm_runner.mcp_server.tools import TOOLS, Tool
from fsm_runner.protocol.json_tree import is_deeper
from fsm_runner.protocol.wire import JsonObject

INSTRUCTIONS = "Starts and looks after sessions of other agents. list_agent_blueprints tells which agents there are."
CANCELLED = "notifications/cancelled"

STRUCTURED_LEVELS = 100
"""What is nested deeper goes as text alone: the SDK's models give up at 255 levels."""
SCHEMAS = {tool.name: tool.input_schema for tool in TOOLS}

Context = ServerRequestContext[Any, Any]


class McpService:
    """Serves while it is entered. Takes `listener` over: it is closed at the end."""

    def __init__(self, api: CoordinatorApi, listener: socket.socket, limits: Limits, addresses: Addresses) -> None:
        self._toolbox = Toolbox(api, limits)
        self._calls = Calls()
        self._ending = False
        server: Server[Any] = Server(
            "fsm-runner",
            version=__version__,
            instructions=INSTRUCTIONS,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            # Else the SDK would list all tools before each call, for the schema of one.
            get_tool_input_schema=SCHEMAS.get,
        )
        server.middleware = [self._hear_cancellations]
        # Without sessions a client that is killed leaves nothing behind, its waiting calls end with its connections,
        # and a restarted runner is as good as the one before.
        self._manager = StreamableHTTPSessionManager(
            server,
            stateless=True,
            security_settings=_security(listener.getsockname()[1]),
            max_request_body_size=limits.body_limit_bytes,
        )
        bounds = Bounds(
            max_connections=limits.connections,
            served_at_once=limits.served_at_once,
            client_of=lambda scope: addresses.session_of(scope.get("path", "").rstrip("/")),
        )
        front = Front(self._manager.handle_request, addresses, limits.body_limit_bytes)
        self._web = WebServer(front, listener, bounds)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "McpService":
        _without_exit_watcher()
        await self._stack.enter_async_context(self._manager.run())
        try:
            await self._web.start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Calls that wait are answered at once, connections are cut a moment later."""
        self._ending = True
        self._web.stop_listening()
        self._calls.end_all()
        try:
            await self._web.end_connections()
        finally:
            await self._stack.aclose()

    async def _list_tools(self, _: Context, __: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_described(tool) for tool in TOOLS])

    async def _call_tool(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        caller = _caller(context)
        with self._calls.one(_key(caller, context.request_id)) as scope:
            answer = await self._answered(params.name, params.arguments or {}, caller, _reporter(context))
        if scope.cancelled_caught:
            reason = "The runner is shutting down" if self._ending else "The call was given up"
            goes_on = "what it has started goes on, and list_agent_sessions shows it."
            return _answer({"error": f"{reason}; {goes_on}"}, is_error=True)
        return answer

    async def _answered(self, name: str, arguments: JsonObject, caller: Caller, report: Report) -> types.CallToolResult:
        try:
            if self._ending:
                raise ToolFailure("The runner is shutting down.")
            return _answer(await self._toolbox.call(name, arguments, caller, report))
        except ToolFailure as failure:
            return _answer(failure.result, is_error=True)
        except Exception as defect:  # noqa: BLE001 - a client has no use for what is inside, the log has
            logger.opt(exception=defect).error("mcp: {} failed", name)
            return _answer({"error": "The tool failed inside the runner; its log says why."}, is_error=True)

    async def _hear_cancellations(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        """A client says in a request of its own that it gave up: without sessions the SDK cannot match the two."""
        if ctx.method == CANCELLED:
            key = _key(_caller(ctx), (ctx.params or {}).get("requestId"))
            if key is not None:
                self._calls.give_up(key)
        return await call_next(ctx)


def _without_exit_watcher() -> None:
    """The library behind the SDK's event streams starts a task that nobody owns, to look twice a second, for ever,
    whether uvicorn has had a signal. Signals are the program's here, and streams end with `McpService`.

    Its flag for "started already", of this thread, is the only way to keep it from that. Where there is none, it polls
    in vain and harms nothing.
    """
    with contextlib.suppress(AttributeError):
        sse._get_shutdown_state().watcher_started = True  # noqa: SLF001


def _security(port: int) -> TransportSecuritySettings:
    """Only requests that name this server: a page that a browser shows cannot reach it under a name of its own."""
    hosts = [f"127.0.0.1:{port}", f"localhost:{port}"]
    return TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=[f"http://{host}" for host in hosts])


def _described(tool: Tool[Any]) -> types.Tool:
    return types.Tool(
        name=tool.name,
        description=tool.description,
        input_schema=SCHEMAS[tool.name],
        annotations=types.ToolAnnotations(read_only_hint=tool.read_only, destructive_hint=tool.destructive),
    )


def _answer(result: ToolResult, *, is_error: bool = False) -> types.CallToolResult:
    """As text for clients of any age; as structured content, which has to be an object, for newer ones."""
    structured = result if isinstance(result, dict) else {"result": result}
    text = types.TextContent(type="text", text=msgspec.json.encode(result).decode())
    return types.CallToolResult(
        content=[text],
        structured_content=None if is_deeper(structured, STRUCTURED_LEVELS) else structured,
        is_error=is_error,
    )


def _caller(context: Context) -> Caller:
    return caller_of(context.request.headers.raw if context.request is not None else ())


def _key(caller: Caller, request_id: object) -> CallKey | None:
    """Request ids are any client's own small numbers: without a session to tell clients apart they say nothing."""
    if caller.session_id is None or not isinstance(request_id, str | int):
        return None
    return caller.session_id, request_id


def _reporter(context: Context) -> Report:
    async def report(so_far_s: float, text: str) -> None:
        try:
            await context.session.report_progress(round(so_far_s, 1), None, text)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            logger.debug("mcp: the client has left: {}", text)

    return report
