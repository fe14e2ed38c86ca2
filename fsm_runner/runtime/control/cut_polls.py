"""Polls that something between the runner and the coordinator ends before their time."""

from loguru import logger

from fsm_runner.coordinator_client.errors import CoordinatorError, Unreachable
from fsm_runner.coordinator_client.policy import POLL_MARGIN_S, SHORT_POLL_S

PROXY_TIMEOUTS = frozenset({408, 504, 524})
"""The statuses with which a proxy says that the server behind it has not answered in time."""

WARNED_OF = 2
"""The log warns at this number of cut polls in a row: a single one may come from a proxy that restarts."""


class CutPolls:
    """Counts cut polls, and warns of a proxy that cuts every one."""

    def __init__(self) -> None:
        self._in_a_row = 0

    @staticmethod
    def may_be(fault: CoordinatorError, held_s: float) -> bool:
        """Whether this looks like a poll that was cut, rather than a coordinator that is away."""
        return fault.may_have_arrived and (held_s >= SHORT_POLL_S or _status_of(fault) in PROXY_TIMEOUTS)

    def note(self, fault: CoordinatorError, held_s: float, hold_s: float) -> None:
        """A poll failed after `held_s`, where `hold_s` were allowed, and then the coordinator answered a heartbeat."""
        self._in_a_row += held_s < hold_s
        if self._in_a_row == WARNED_OF:
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
        """A poll was answered."""
        self._in_a_row = 0


def _status_of(fault: CoordinatorError) -> int | None:
    return fault.status if isinstance(fault, Unreachable) else None
