"""Whether an answer of the coordinator may have been lost, and with it what it carried."""

from fsm_runner.coordinator_client.policy import POLL_MARGIN_S, RUN_LOOKUP_INTERVAL_S


class ReconciliationWindow:
    """Times are seconds of the loop's clock.

    A poll whose connection broke is still held at the coordinator, and may claim a run until it would have been
    answered. So a look-up settles the doubt only when it was begun after that.
    """

    def __init__(self) -> None:
        self._until_s: float | None = None
        self._next_s = 0.0

    @property
    def exists(self) -> bool:
        return self._until_s is not None

    def begin(self, now_s: float, held_on_s: float = 0.0) -> None:
        """`held_on_s`: how long the coordinator may hold on what was lost."""
        until_s = now_s + held_on_s + POLL_MARGIN_S if held_on_s > 0 else now_s
        self._until_s = until_s if self._until_s is None else max(self._until_s, until_s)
        self._next_s = now_s

    def is_due(self, now_s: float) -> bool:
        """Whether it is time for a look-up."""
        return self._until_s is not None and now_s >= self._next_s

    def settle(self, looked_up_s: float) -> None:
        """A look-up that was begun then has been answered."""
        if self._until_s is not None and looked_up_s >= self._until_s:
            self._until_s = None
        self.put_off(looked_up_s)

    def put_off(self, looked_up_s: float) -> None:
        self._next_s = looked_up_s + RUN_LOOKUP_INTERVAL_S
