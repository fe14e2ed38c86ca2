"""Placeholders in an agent: `${params.KEY}` and `${scope.KEY}` are filled in when a run is created."""

import re
from typing import Any

import msgspec

from fsm_runner.coordinator.wire import JsonObject

_PLACEHOLDER = re.compile(r"\$\{(params|scope)\.([^{}]+)\}")


def fill(value: Any, params: JsonObject, scope: JsonObject) -> Any:
    """The value with every known placeholder in its strings replaced.

    A value that is no string is put in as JSON. `${runner.*}` and unknown ones stay as they are.
    """
    sources = {"params": params, "scope": scope}

    def replacement(match: re.Match[str]) -> str:
        source, key = sources[match[1]], match[2]
        return _as_text(source[key]) if key in source else match[0]

    def filled(part: Any) -> Any:
        return _PLACEHOLDER.sub(replacement, part) if isinstance(part, str) and "${" in part else part

    # Without recursion: JSON may be decoded to a depth that calls cannot reach.
    whole = [filled(value)]
    unseen: list[JsonObject | list[Any]] = [whole]
    while unseen:
        container: Any = unseen.pop()
        for place, part in list(container.items() if isinstance(container, dict) else enumerate(container)):
            container[place] = part.copy() if isinstance(part, dict | list) else filled(part)
            if isinstance(part, dict | list):
                unseen.append(container[place])
    return whole[0]


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
