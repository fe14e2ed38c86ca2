"""Waits for the MCP servers before a turn, and reports those that are not connected."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path

from claude_agent_sdk.types import McpServerStatus

from claude_code_executor.program import Program, ProgramEnded
from claude_code_executor.results import TurnFailed

PROJECT_FILE = ".mcp.json"

POLL_S = 0.1
SLOW_S = 2.0
"""After this time, servers that are still connecting are reported."""
CONNECT_LIMIT_S = 60.0
"""The program itself gives up after 30 s by default (its MCP_TIMEOUT)."""

UNREMARKABLE = ("connected", "pending", "disabled")
"""Statuses that are not reported. The project's servers may be pending, since a turn does not wait for them."""


def project_file_defect(folder: Path) -> str | None:
    """Return why the program cannot read the project's MCP servers, or None. The program does not report it."""
    file = folder / PROJECT_FILE
    try:
        json.loads(file.read_text("utf-8-sig"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as fault:
        return f"the MCP servers of {file} are missing, because the file cannot be read: {fault}"
    return None


class McpServers:
    """`of_agent` names the servers that a turn waits for; with `required`, the turn fails without them.

    `report_detail` sends a status detail.
    """

    def __init__(
        self,
        program: Program,
        of_agent: Collection[str],
        *,
        required: bool,
        report_detail: Callable[[str], Awaitable[None]],
    ) -> None:
        self._program = program
        self._of_agent = of_agent
        self._required = of_agent if required else ()
        self._report_detail = report_detail
        self._reported: set[str] = set()
        self._has_pending = False

    async def wait_connected(self) -> None:
        """Wait until the agent's servers are connected or have failed, as the program would, and report failed servers.

        Raises `TurnFailed` if a required server is not connected, and `ProgramEnded`.
        """
        servers = await self._wait_pending()
        missing = {name: _reason(servers.get(name)) for name in self._required if not _is_connected(servers.get(name))}
        if missing:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
            raise TurnFailed(f"MCP servers that the profile requires (mcp_required) are not connected: {reasons}")
        await self._report(servers)

    async def report_late(self) -> None:
        """Report servers that failed during the turn, of those that it did not wait for."""
        if self._has_pending:
            with contextlib.suppress(ProgramEnded):
                await self._report(await self._servers())

    async def _report(self, servers: Mapping[str, McpServerStatus]) -> None:
        self._has_pending = any(server["status"] == "pending" for server in servers.values())
        failed = {name for name, server in servers.items() if server["status"] not in UNREMARKABLE}
        for name in sorted(failed - self._reported):
            await self._report_detail(f"the MCP server {name} is not connected: {_reason(servers[name])}")
        self._reported = failed

    async def _wait_pending(self) -> dict[str, McpServerStatus]:
        started_at = time.monotonic()
        is_reported = False
        while True:
            servers = await self._servers()
            pending = [name for name in self._of_agent if name in servers and servers[name]["status"] == "pending"]
            waited_s = time.monotonic() - started_at
            if not pending or waited_s >= CONNECT_LIMIT_S:
                return servers
            if waited_s >= SLOW_S and not is_reported:
                await self._report_detail(f"the turn waits for MCP servers that do not answer: {', '.join(pending)}")
                is_reported = True
            await asyncio.sleep(POLL_S)

    async def _servers(self) -> dict[str, McpServerStatus]:
        return {server["name"]: server for server in await self._program.mcp_servers()}


def _is_connected(server: McpServerStatus | None) -> bool:
    return server is not None and server["status"] == "connected"


def _reason(server: McpServerStatus | None) -> str:
    if server is None:
        return "Claude Code does not know it"
    return server.get("error") or server["status"]
