"""What a run must have produced: the values of `expect` in agents and profiles."""

from collections.abc import Iterable
from typing import Literal, get_args

Expectation = Literal["changes", "result", "data"]
"""`changes`: the workspace's git repository differs. `result`: the result is not empty. `data`: it matches the agent's
`output_schema`."""

EXPECTATIONS: frozenset[Expectation] = frozenset(get_args(Expectation))


def expectations_of(values: Iterable[str]) -> frozenset[Expectation]:
    """Return the expectations that a list names. Raises ValueError, which names the first unknown value."""
    names: dict[str, Expectation] = {name: name for name in get_args(Expectation)}
    found = set()
    for value in values:
        if value not in names:
            raise ValueError(f"{value!r} is not one of {', '.join(names)}")
        found.add(names[value])
    return frozenset(found)
