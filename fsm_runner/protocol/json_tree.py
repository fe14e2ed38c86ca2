"""JSON of any depth, once it is decoded: what can be read cannot always be written, or read by others."""

from collections.abc import Callable, Iterable
from typing import Any


def is_deeper(value: object, levels: int) -> bool:
    """Whether objects and lists are nested in one another more than so many times."""
    layer = [value]
    for _ in range(levels + 1):
        layer = [child for each in layer for child in _children(each)]
        if not layer:
            return False
    return True


def _renamed(part: Any, change: Callable[[str], str]) -> Any:
    return {change(name): each for name, each in part.items()} if isinstance(part, dict) else part.copy()


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def without_nulls(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the object without null members: clients send an explicit null for an absent field."""
    return {key: value for key, value in fields.items() if value is not None}


def with_texts(value: Any, change: Callable[[str], str], *, names: bool = False) -> Any:
    """A copy of a JSON document in which each text is changed; `names`: those of members too.

    Without recursion: JSON may be decoded to a depth that calls cannot reach.
    """
    whole = [value]
    unseen: list[Any] = [whole]
    while unseen:
        container: Any = unseen.pop()
        for place, part in list(container.items() if isinstance(container, dict) else enumerate(container)):
            if isinstance(part, str):
                container[place] = change(part)
            elif isinstance(part, dict | list):
                container[place] = _renamed(part, change) if names else part.copy()
                unseen.append(container[place])
    return whole[0]
