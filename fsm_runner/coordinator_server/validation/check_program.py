"""Checks parameters against JSON Schemas, as a program of its own: one that takes for ever or too much memory is ended.

On stdin two lines of JSON for each check: a schema, and parameters. On stdout one line: `{"broken": WHY}`, or
`{"errors": [{"path", "message", "schema_path"}]}`, which is empty where they fit. Nothing of ours is imported: it
starts in some 40 ms.
"""

import json
import re
import resource
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from typing import Any

import jsonschema_rs

SHOWN_ERRORS = 20
MESSAGE_LIMIT_CHARS = 1_000
"""A message shows the value that does not fit, of whatever size that is."""
PATTERN_STEPS_LIMIT = 100_000
"""How often a `pattern` may go back and try another way: a text takes some milliseconds then, and does not match."""
MEMORY_LIMIT_BYTES = 2 << 30
KEPT_SCHEMAS = 100

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class BrokenSchemaError(Exception):
    """No JSON Schema; the text says where and why."""


def validator_of(schema: Any) -> jsonschema_rs.Validator:
    """Draft 2020-12, or what `$schema` says. Raises `BrokenSchemaError`."""
    limits = jsonschema_rs.FancyRegexOptions(backtrack_limit=PATTERN_STEPS_LIMIT)
    try:
        # A `format` is a note, as JSON Schema has it; a $ref to an address is refused, not fetched.
        return jsonschema_rs.validator_for(schema, validate_formats=False, pattern_options=limits, offline=True)
    except jsonschema_rs.ValidationError as error:
        raise BrokenSchemaError(f"{_json_path(error.instance_path)}: {error.message}") from None
    except ValueError as error:
        raise BrokenSchemaError(str(error)) from None


def errors_of(validator: jsonschema_rs.Validator, parameters: Any) -> list[dict[str, str]]:
    """What does not fit, the first of it; empty where all does."""
    try:
        return [_described(error) for error in islice(validator.iter_errors(parameters), SHOWN_ERRORS)]
    except ValueError as fault:  # nested more deeply than can be compared
        return [{"path": "$", "message": f"cannot be checked: {fault}", "schema_path": ""}]


def main() -> None:
    with suppress(ValueError, OSError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    validator_of_text = lru_cache(KEPT_SCHEMAS)(lambda text: validator_of(json.loads(text)))
    lines = sys.stdin.buffer
    while schema := lines.readline():
        parameters = json.loads(lines.readline())
        try:
            answer: dict[str, Any] = {"errors": errors_of(validator_of_text(schema), parameters)}
        except BrokenSchemaError as broken:
            answer = {"broken": _truncated(str(broken))}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _described(error: jsonschema_rs.ValidationError) -> dict[str, str]:
    return {
        "path": _truncated(_json_path(error.instance_path)),
        "message": _truncated(error.message),
        "schema_path": _truncated("/".join(map(str, error.schema_path))),
    }


def _truncated(text: str) -> str:
    return text if len(text) <= MESSAGE_LIMIT_CHARS else f"{text[:MESSAGE_LIMIT_CHARS]}…"


def _json_path(steps: Iterable[str | int]) -> str:
    """As JSONPath writes it: `$.items[0]`."""
    return "$" + "".join(
        f".{step}" if isinstance(step, str) and _PLAIN_NAME.fullmatch(step) else f"[{json.dumps(step)}]"
        for step in steps
    )


if __name__ == "__main__":
    main()
