"""Placeholders in an agent: `${params.KEY}` and `${scope.KEY}` are filled in when a run is created."""

import re
from typing import Any

import msgspec

from fsm_runner.protocol.json_tree import with_texts
from fsm_runner.protocol.wire import JsonObject

_PLACEHOLDER = re.compile(r"\$\{(params|scope)\.([^{}]+)\}")


def fill(value: Any, params: JsonObject, scope: JsonObject) -> Any:
    """The value with every known placeholder in its strings replaced.

    A value that is no string is put in as JSON. `${runner.*}` and unknown ones stay as they are.
    """
    sources = {"params": params, "scope": scope}

    def replacement(match: re.Match[str]) -> str:
        source, key = sources[match[1]], match[2]
        return _as_text(source[key]) if key in source else match[0]

    return with_texts(value, lambda text: _PLACEHOLDER.sub(replacement, text) if "${" in text else text)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
