"""Waits for the program's next message, and reports what the turn waits for if none arrives."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection

from claude_agent_sdk.types import Message

from claude_code_executor.config import Config
from claude_code_executor.program import Program
from claude_code_executor.program_state import Phase

BETWEEN_LIMIT_S = 60.0
"""The time limit for `Phase.BETWEEN`, which normally takes less than 100 ms."""


class StallMonitor:
    """`report_detail` sends a status detail. `tools` returns the names of the tools that are running."""

    def __init__(
        self,
        program: Program,
        config: Config,
        report_detail: Callable[[str], Awaitable[None]],
        tools: Callable[[], Collection[str]],
    ) -> None:
        self._program = program
        self._config = config
        self._report_detail = report_detail
        self._tools = tools
        self._reported_background: list[str] = []

    async def next_message(self) -> Message | None:
        """Return the next message, or None when a time limit without a message has passed. Raises `ProgramEnded`."""
        await self._report_background()
        started_at = time.monotonic()
        notice_s = self._config.stall_notice_s
        limit_s = self._limit_s()
        while (silent_s := time.monotonic() - started_at) < limit_s:
            if silent_s >= notice_s:
                await self._report_detail(f"no progress for {notice_s:g} s: the turn waits for {self._awaited()}")
                # Each interval is twice as long, so that a long wait does not fill the history.
                notice_s *= 2
                continue
            try:
                async with asyncio.timeout(min(notice_s, limit_s) - silent_s):
                    return await self._program.next_message()
            except TimeoutError:
                continue
        await self._give_up(limit_s)
        return None

    def _limit_s(self) -> float:
        state = self._program.state
        if state.phase is Phase.BETWEEN:
            return BETWEEN_LIMIT_S
        # Sub-agents end by themselves, and one of their tools may take longer than the limit.
        return self._config.background_limit_s if state.is_in_background and not state.has_agents else math.inf

    async def _give_up(self, limit_s: float) -> None:
        state = self._program.state
        if state.phase is Phase.BETWEEN:
            state.assume_idle()
            return
        await self.stop_background(f"after {limit_s:g} s without progress")

    async def stop_background(self, why: str) -> None:
        await self._report_detail(f"background work is stopped {why}: {self._background()}")
        await self._program.stop_background()
        self._program.state.forget_background()

    async def _report_background(self) -> None:
        """Report the background work that the turn waits for, once after each change."""
        state = self._program.state
        if state.is_in_background and self._reported_background != list(state.background):
            self._reported_background = list(state.background)
            await self._report_detail(f"the turn waits for {self._awaited()}")

    def _awaited(self) -> str:
        if self._program.state.is_in_background:
            return f"background work: {self._background()}"
        return ", ".join(self._tools()) or "the API"

    def _background(self) -> str:
        return "; ".join(self._program.state.background.values())
