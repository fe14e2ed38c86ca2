"""Operations on decoded JSON of any depth, which encoders and other programs may reject."""

from collections.abc import Callable, Iterable
from typing import Any


def is_deeper(value: object, levels: int) -> bool:
    """Return whether objects and lists are nested deeper than `levels`."""
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
    """Return a copy of a JSON document with `change` applied to each text, and with `names` to names of members too.

    It does not recurse, because JSON may be nested deeper than Python's calls.
    """
    root = [value]
    pending: list[Any] = [root]
    while pending:
        container: Any = pending.pop()
        for key, part in list(container.items() if isinstance(container, dict) else enumerate(container)):
            if isinstance(part, str):
                container[key] = change(part)
            elif isinstance(part, dict | list):
                container[key] = _renamed(part, change) if names else part.copy()
                pending.append(container[key])
    return root[0]
