"""Whether the coordinator still expects the report of a run."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from fsm_runner.errors import FsmRunnerError
from fsm_runner.protocol import wire
from fsm_runner.protocol.statuses import OPEN_RUN_STATUSES

ANSWER_LIMIT_S = 5.0
"""How long a run whose workflow has waited waits for the coordinator's answer, before it continues without one."""


class Superseded(FsmRunnerError):
    """The coordinator expects no report of this run any more."""


class WantedCheck:
    """Asks the coordinator about one run: after an interruption, and after waits in which it may have ended the run."""

    def __init__(
        self,
        run: wire.Run,
        runner_id: str,
        look_up: Callable[[str], Awaitable[wire.RunState | None]],
        on_stop_requested: Callable[[], None],
        end_work: Callable[[], Awaitable[None]],
    ) -> None:
        """`look_up` waits through outages. `end_work` ends what was started for a run that is not expected any more."""
        self._run_id = run.run_id
        self._runner_id = runner_id
        self._attempt = run.attempt
        self._look_up = look_up
        self._on_stop_requested = on_stop_requested
        self._end_work = end_work
        self.superseded = ""
        """Why the coordinator expects no report of the run; empty if it expects one."""

    async def require(self, answer_limit_s: float | None = None) -> None:
        """Raise `Superseded`, when the work has ended, if the coordinator expects no report of this run.

        `answer_limit_s`: if the coordinator does not answer within this time, the run continues.
        """
        try:
            async with asyncio.timeout(answer_limit_s):
                found = await self._look_up(self._run_id)
        except TimeoutError:
            return
        if found is None:
            self.superseded = "the coordinator does not know this run any more"
        elif found.status not in OPEN_RUN_STATUSES:
            self.superseded = f"the coordinator has it as {found.status} already"
        elif self._is_reassigned(found):
            self.superseded = "the coordinator has given it to another runner, or it waits for one"
        elif found.status == "stopping":
            # Handled before the result of the run's activity, which then comes too late.
            self._on_stop_requested()
        if self.superseded:
            await self._end_work()
            raise Superseded(self.superseded)

    def _is_reassigned(self, found: wire.RunState) -> bool:
        # After a restart, a deployed coordinator may show a claimed run as pending.
        return found.runner_id != self._runner_id and (found.runner_id is not None or found.attempt > self._attempt)

    async def during(self, waiting: Coroutine[Any, Any, None]) -> None:
        """Wait, also while the coordinator is away. Raise `Superseded` as soon as it expects no report of this run."""
        wait = asyncio.create_task(waiting, name=f"{self._run_id} wait")
        check = asyncio.create_task(self.require(), name=f"{self._run_id} look-up")
        try:
            await asyncio.wait({wait, check}, return_when=asyncio.FIRST_COMPLETED)
            if check.done():
                check.result()
            await wait
        finally:
            wait.cancel()
            check.cancel()
            await asyncio.wait({wait, check})
