"""How deep JSON is nested, once it is decoded: what can be read cannot always be written, or read by others."""

from collections.abc import Iterable


def is_deeper(value: object, levels: int) -> bool:
    """Whether objects and lists are nested in one another more than so many times."""
    layer = [value]
    for _ in range(levels + 1):
        layer = [child for each in layer for child in _children(each)]
        if not layer:
            return False
    return True


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()
