"""When the executions of a simulation began and ended, and what is wrong with that while a limit is reached."""

import asyncio
from collections.abc import Iterator

import msgspec

from fsm_runner.journal.records import Recovered
from fsm_runner.reporting.provider_limit import ProviderLimit
from fsm_runner.runtime.control.provider_limits import LimitWait


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """The start or the end of an execution, or the start of a process with the waits of its journal."""

    at_s: float
    run_id: str = ""
    is_start: bool = False
    limit: ProviderLimit | None = None
    """The limit that ended it."""
    was_answered: bool = False
    """Whether the provider gave an answer."""
    waits: tuple[LimitWait, ...] = ()


class Timeline:
    """The moments of a simulation, in order. An execution ends with its process."""

    def __init__(self) -> None:
        self.moments: list[Moment] = []
        self._open: dict[str, object] = {}

    def process_started(self, recovered: Recovered) -> None:
        self._open.clear()
        waits = [msgspec.json.decode(run.wait, type=LimitWait) for run in recovered.runs if run.wait is not None]
        self._add(Moment(at_s=_now_s(), waits=tuple(waits)))

    def started(self, run_id: str, execution: object) -> None:
        self._open[run_id] = execution
        self._add(Moment(at_s=_now_s(), run_id=run_id, is_start=True))

    def ended(
        self, run_id: str, execution: object, limit: ProviderLimit | None = None, *, was_answered: bool = False
    ) -> None:
        """The first call for an execution counts."""
        if self._open.get(run_id) is execution:
            del self._open[run_id]
            self._add(Moment(at_s=_now_s(), run_id=run_id, limit=limit, was_answered=was_answered))

    def _add(self, moment: Moment) -> None:
        self.moments.append(moment)

    def starts_of(self, run_id: str) -> list[Moment]:
        return [moment for moment in self.moments if moment.run_id == run_id and moment.is_start]

    def most_at_once(self) -> int:
        """Return the largest number of executions that lasted at the same time."""
        most, lasting = 0, set[str]()
        for moment in self.moments:
            if not moment.run_id:
                lasting.clear()
            elif moment.is_start:
                lasting.add(moment.run_id)
            else:
                lasting.discard(moment.run_id)
            most = max(most, len(lasting))
        return most

    def defects(self, longest_hold_s: float) -> Iterator[str]:
        """Describe the executions that began although the limit of the credential was reached."""
        limited = _Limited(longest_hold_s)
        for moment in self.moments:
            if not moment.run_id:
                limited = _Limited(longest_hold_s)
                limited.restore(moment)
            elif moment.is_start:
                if defect := limited.start(moment):
                    yield defect
            else:
                limited.end(moment)


class _Limited:
    """What one process of the runner knows about the limit of its credential."""

    def __init__(self, longest_hold_s: float) -> None:
        self._longest_hold_s = longest_hold_s
        self._since_s: float | None = None
        self._due_s = 0.0
        self._tester = ""

    def restore(self, moment: Moment) -> None:
        due_s = [wait.due_s for wait in moment.waits if wait.limit.is_of_credential]
        if due_s:
            self._since_s, self._due_s = moment.at_s - 1, max(due_s)

    def start(self, moment: Moment) -> str:
        """Return what is wrong with the start of an execution; empty if nothing is."""
        if self._since_s is None or moment.at_s == self._since_s:
            return ""  # A run may start in the moment in which another one meets the limit.
        if moment.at_s < self._due_s:
            return f"{moment.run_id} starts at {moment.at_s} s, before the reset at {self._due_s} s"
        if self._tester:
            return f"{moment.run_id} starts at {moment.at_s} s, although {self._tester} tests the limit"
        self._tester = moment.run_id
        return ""

    def end(self, moment: Moment) -> None:
        is_tester = moment.run_id == self._tester
        if is_tester:
            self._tester = ""
        if moment.limit is not None and moment.limit.scope == "credential":
            resets_at_s = moment.limit.resets_at_s or 0.0
            due_s = min(max(resets_at_s, moment.at_s), moment.at_s + self._longest_hold_s)
            self._due_s = due_s if self._since_s is None else max(due_s, self._due_s)
            self._since_s, self._tester = moment.at_s, ""
        elif is_tester and moment.was_answered:
            self._since_s = None


def _now_s() -> float:
    return asyncio.get_running_loop().time()
