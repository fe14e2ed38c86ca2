"""The held polls, and which of them is woken for a run."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from fsm_runner.coordinator_server.demand_classes import DemandClasses
from fsm_runner.coordinator_server.registry import WaitingPoll


class WaitingPolls:
    """Wakes for a run one poll that may claim it: that of the runner which has waited longest since its last run.

    A poll that is woken looks for a run. If it ends without one, or finds one run of several, the next poll is woken.
    So while a class has runs to claim, a poll that may claim them is awake, or none is held.
    """

    def __init__(self, classes: DemandClasses) -> None:
        self._classes = classes
        self._polls: set[WaitingPoll] = set()

    @contextmanager
    def waiting(self, poll: WaitingPoll) -> Iterator[None]:
        """Let the poll be woken during the body. At the end, pass on what it was woken for."""
        self._polls.add(poll)
        try:
            yield
        finally:
            self._polls.discard(poll)
            self.wake_for(poll.woken_for)

    def wake_for(self, class_ids: Iterable[int]) -> None:
        """Wake one poll for each of these classes that is ready."""
        for class_id in class_ids:
            eligible = [
                poll
                for poll in self._polls
                # The first condition says nothing new, but is a quick answer for hundreds of idle runners.
                if poll.runner.may_claim.get(class_id, True) and self._classes.is_claimable(class_id, poll.runner)
            ]
            if eligible:  # otherwise the next poll of an eligible runner looks by itself
                chosen = min(eligible, key=_after_others)
                chosen.woken_for.add(class_id)
                chosen.wake()


def _after_others(poll: WaitingPoll) -> tuple[bool, int]:
    """A poll that is awake may find another run, so polls that sleep are first."""
    return poll.is_awake, poll.runner.served_no
