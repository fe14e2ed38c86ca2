"""Detects a proxy that ends polls before their time."""

from loguru import logger

from fsm_runner.coordinator_client.errors import CoordinatorError, Unreachable
from fsm_runner.coordinator_client.policy import POLL_MARGIN_S, SHORT_POLL_S

PROXY_TIMEOUTS = frozenset({408, 504, 524})
"""The statuses with which a proxy reports that the server behind it has not answered in time."""

WARN_AT = 2
"""The number of consecutive cut polls at which the log warns. A proxy that restarts cuts a single one."""


class CutPolls:
    """Counts consecutive polls that were cut, and warns of the proxy that cuts them."""

    def __init__(self) -> None:
        self._consecutive = 0

    @staticmethod
    def may_be_cut(fault: CoordinatorError, held_s: float) -> bool:
        """Return whether a proxy may have cut this poll. Otherwise the coordinator is away."""
        status = fault.status if isinstance(fault, Unreachable) else None
        return fault.may_have_arrived and (held_s >= SHORT_POLL_S or status in PROXY_TIMEOUTS)

    def note(self, fault: CoordinatorError, held_s: float, hold_s: float) -> None:
        """Count a poll that failed after `held_s` of `hold_s`, before the coordinator answered a heartbeat."""
        self._consecutive += held_s < hold_s
        if self._consecutive == WARN_AT:
            logger.warning(
                "polls are cut after {:.1f} s, while the coordinator answers heartbeats: a proxy in front of it has a "
                "time-out that is shorter than a poll, which may take {:g} s; raise that time-out above {:g} s. Until "
                "then runs may start late, and a stop of an idle session may be lost ({})",
                held_s,
                hold_s,
                hold_s + POLL_MARGIN_S,
                fault,
            )

    def reset(self) -> None:
        """Start over, because a poll was answered."""
        self._consecutive = 0
