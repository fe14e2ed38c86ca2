"""Where an earlier process may have left a life."""

from collections.abc import Iterator

from fsm_runner.machine.spec import Spec
from fsm_runner.runtime.actors.actor import Position


def positions(spec: Spec) -> list[Position]:
    """All states that are not final, each with all the outcomes that may be decided by then."""
    return sorted(_found(spec), key=str)


def _found(spec: Spec) -> Iterator[Position]:
    seen: set[Position] = set()
    waiting = [Position(spec.initial, None)]
    while waiting:
        position = waiting.pop()
        if position in seen or spec.states[position.state].final:
            continue
        seen.add(position)
        yield position
        ways = [rule for rule in spec.transitions if position.state in rule.sources]
        for rule in ways:
            decided = position if position.outcome is not None else Position("", rule.decides, rule.provisional)
            waiting.append(decided._replace(state=rule.to))
