"""The MCP SDK in front of the tools: streamable HTTP on a listening socket. Loaded with the first connection."""

import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
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
from fsm_runner.executors.children import ChildBounds
from fsm_runner.http_server.connection import Bounds
from fsm_runner.http_server.server import WebServer
from fsm_runner.mcp_server.caller import Addresses, Caller, caller_of
from fsm_runner.mcp_server.limits import Limits
from fsm_runner.mcp_server.middleware import AddressMiddleware
from fsm_runner.mcp_server.results import ToolFailure
from fsm_runner.mcp_server.toolbox import ReportProgress, Toolbox, ToolResult
from fsm_runner.mcp_server.tools import TOOLS
from fsm_runner.protocol.json_tree import is_deeper
from fsm_runner.protocol.wire import JsonObject

INSTRUCTIONS = "Starts and manages sessions of other agents. list_agent_blueprints lists the agents."
CANCELLED = "notifications/cancelled"

STRUCTURED_LEVELS = 100
"""Results nested more deeply are sent as text only: the SDK's models fail at 255 levels."""
SCHEMAS = {tool.name: tool.input_schema for tool in TOOLS}

CallKey = tuple[str, str | int]
"""The calling session, and the id that its client gave the request."""
Context = ServerRequestContext[Any, Any]


class McpService:
    """Serves once, with `serve`. It owns `listener` and closes it at the end."""

    def __init__(
        self,
        api: CoordinatorApi,
        listener: socket.socket,
        limits: Limits,
        addresses: Addresses,
        child_bounds: ChildBounds,
    ) -> None:
        self._toolbox = Toolbox(api, limits, child_bounds)
        self._calls = CallScopes()
        self._is_ending = False
        """Whether calls end because of a shutdown, rather than because the client cancelled them."""
        server: Server[Any] = Server(
            "fsm-runner",
            version=__version__,
            instructions=INSTRUCTIONS,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            # By default, the SDK lists all tools before each call to find the schema of one.
            get_tool_input_schema=SCHEMAS.get,
        )
        server.middleware = [self._cancel_calls]
        # Only requests that name this server, so that no web page can reach it by a host name of its own.
        hosts = [f"{host}:{listener.getsockname()[1]}" for host in ("127.0.0.1", "localhost")]
        # Stateless: a killed client leaves nothing behind, its waiting calls end with its connections, and clients can
        # continue with a restarted runner.
        self._manager = StreamableHTTPSessionManager(
            server,
            stateless=True,
            security_settings=TransportSecuritySettings(
                allowed_hosts=hosts, allowed_origins=[f"http://{host}" for host in hosts]
            ),
            max_request_body_size=limits.body_limit_bytes,
        )
        bounds = Bounds(
            max_connections=limits.connections,
            served_at_once=limits.served_at_once,
            client_of=lambda scope: addresses.session_of(scope.get("path", "").rstrip("/")),
        )
        app = AddressMiddleware(self._manager.handle_request, addresses, limits.body_limit_bytes)
        self._web = WebServer(app, listener, bounds)

    async def serve(self) -> None:
        """Serve until cancelled. Then answer waiting calls with an error, and close the connections."""
        _disable_exit_watcher()
        async with self._manager.run():
            await self._web.start()
            try:
                await anyio.sleep_forever()
            finally:
                self._is_ending = True
                self._web.stop_listening()
                self._calls.cancel_all()
                await self._web.end_connections()

    async def _list_tools(self, _: Context, __: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        described = [
            types.Tool(
                name=tool.name,
                description=tool.description,
                input_schema=SCHEMAS[tool.name],
                annotations=types.ToolAnnotations(read_only_hint=tool.read_only, destructive_hint=tool.destructive),
            )
            for tool in TOOLS
        ]
        return types.ListToolsResult(tools=described)

    async def _call_tool(self, context: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        caller = _caller(context)
        with self._calls.scope(_key(caller, context.request_id)) as scope:
            result = await self._run_tool(params.name, params.arguments or {}, caller, _progress_reporter(context))
        if scope.cancelled_caught:
            reason = "The runner is shutting down" if self._is_ending else "The call was cancelled"
            hint = "a session that it has started continues, and list_agent_sessions lists it."
            return _tool_result({"error": f"{reason}; {hint}"}, is_error=True)
        return result

    async def _run_tool(
        self, name: str, arguments: JsonObject, caller: Caller, report_progress: ReportProgress
    ) -> types.CallToolResult:
        try:
            if self._is_ending:
                raise ToolFailure("The runner is shutting down.")
            return _tool_result(await self._toolbox.call(name, arguments, caller, report_progress))
        except ToolFailure as failure:
            return _tool_result(failure.result, is_error=True)
        except Exception as defect:  # noqa: BLE001 - the log gets the error, and the client no internals
            logger.opt(exception=defect).error("mcp: {} failed", name)
            return _tool_result({"error": "The tool failed inside the runner; its log has the reason."}, is_error=True)

    async def _cancel_calls(self, ctx: Context, call_next: CallNext) -> HandlerResult:
        """Middleware: cancel the call that a notification names. Without MCP sessions, the SDK cannot match the two."""
        if ctx.method == CANCELLED:
            key = _key(_caller(ctx), (ctx.params or {}).get("requestId"))
            if key is not None:
                self._calls.cancel(key)
        return await call_next(ctx)


class CallScopes:
    """The calls in progress, each in a scope by which it can be cancelled."""

    def __init__(self) -> None:
        self._scopes: dict[anyio.CancelScope, CallKey | None] = {}

    @contextmanager
    def scope(self, key: CallKey | None) -> Iterator[anyio.CancelScope]:
        """Yield the scope of one call. Its `cancelled_caught` is set if the call was cancelled."""
        with anyio.CancelScope() as scope:
            self._scopes[scope] = key
            try:
                yield scope
            finally:
                del self._scopes[scope]

    def cancel(self, key: CallKey) -> None:
        """Cancel the call of this key. If two clients of one session use the same id, neither call is cancelled."""
        found = [scope for scope, its_key in self._scopes.items() if its_key == key]
        if len(found) == 1:
            found[0].cancel()

    def cancel_all(self) -> None:
        for scope in self._scopes:
            scope.cancel()


def _disable_exit_watcher() -> None:
    """Keep the library of the SDK's event streams from polling for uvicorn's signals forever, in a task without owner.

    The program handles signals itself, and `McpService` ends the streams. The library has no other switch than this
    thread's "already started" flag. Without the flag, it polls to no effect.
    """
    with contextlib.suppress(AttributeError):
        sse._get_shutdown_state().watcher_started = True  # noqa: SLF001


def _tool_result(result: ToolResult, *, is_error: bool = False) -> types.CallToolResult:
    """Return the result as text for all clients, and as structured content, which must be an object, for newer ones."""
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
    """Return None for a caller without a session: request ids of different clients are the same small numbers."""
    if caller.session_id is None or not isinstance(request_id, str | int):
        return None
    return caller.session_id, request_id


def _progress_reporter(context: Context) -> ReportProgress:
    async def report(so_far_s: float, text: str) -> None:
        try:
            await context.session.report_progress(round(so_far_s, 1), None, text)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            logger.debug("mcp: the client has disconnected: {}", text)

    return report
