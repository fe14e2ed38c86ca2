"""Waits for the program's next message, and reports what the turn waits for when none comes."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection

from claude_agent_sdk.types import Message

from claude_code_executor.activity import Phase
from claude_code_executor.config import Config
from claude_code_executor.program import Program

BETWEEN_LIMIT_S = 60.0
"""For the program to begin a further turn or to report itself idle. It takes less than 100 ms."""


class Waiting:
    """`note` takes a status detail; `tools` gives the names of the tools that are at work."""

    def __init__(
        self,
        program: Program,
        config: Config,
        note: Callable[[str], Awaitable[None]],
        tools: Callable[[], Collection[str]],
    ) -> None:
        self._program = program
        self._config = config
        self._note = note
        self._tools = tools
        self._noted_background: list[str] = []

    async def message(self) -> Message | None:
        """The next message; None when the program did not report, within the limit, what it was expected to.

        Raises `ProgramEnded`.
        """
        await self._note_background()
        began_at = time.monotonic()
        notice_s = self._config.stall_notice_s
        limit_s = self._limit_s()
        while (silent_s := time.monotonic() - began_at) < limit_s:
            if silent_s >= notice_s:
                await self._note(f"no progress for {notice_s:g} s: the turn waits for {self._awaited()}")
                # Each notice after twice the time, so that a long wait does not fill the history.
                notice_s *= 2
                continue
            try:
                async with asyncio.timeout(min(notice_s, limit_s) - silent_s):
                    return await self._program.message()
            except TimeoutError:
                continue
        await self._end_waiting(limit_s)
        return None

    def _limit_s(self) -> float:
        activity = self._program.activity
        if activity.phase is Phase.BETWEEN:
            return BETWEEN_LIMIT_S
        # A sub-agent ends by itself, and a tool of its own can take longer than the limit.
        return self._config.background_limit_s if activity.is_in_background and not activity.has_agents else math.inf

    async def _end_waiting(self, limit_s: float) -> None:
        activity = self._program.activity
        if activity.phase is Phase.BETWEEN:
            activity.settle()
            return
        await self._note(f"background work is stopped after {limit_s:g} s without progress: {self._background()}")
        await self._program.stop_background()
        activity.abandon_background()

    async def _note_background(self) -> None:
        """Note the background work that the turn waits for, once after each change of it."""
        activity = self._program.activity
        if activity.is_in_background and self._noted_background != list(activity.background):
            self._noted_background = list(activity.background)
            await self._note(f"the turn waits for {self._awaited()}")

    def _awaited(self) -> str:
        if self._program.activity.is_in_background:
            return f"background work: {self._background()}"
        return ", ".join(self._tools()) or "the API"

    def _background(self) -> str:
        return "; ".join(self._program.activity.background.values())
