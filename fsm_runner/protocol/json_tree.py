"""Operations on decoded JSON of any depth, which encoders and other programs may reject."""

from collections.abc import Callable
from typing import Any


def is_deeper(value: Any, levels: int) -> bool:
    """Return whether objects and lists are nested deeper than `levels`."""
    layer = [value]
    for _ in range(levels + 1):
        containers = (
            each.values() if isinstance(each, dict) else each for each in layer if isinstance(each, dict | list)
        )
        layer = [child for container in containers for child in container]
        if not layer:
            return False
    return True


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
                copy = part.copy()
                if names and isinstance(part, dict):
                    copy = {change(name): each for name, each in part.items()}
                container[key] = copy
                pending.append(copy)
    return root[0]
