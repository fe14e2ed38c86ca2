"""A program that validates values against JSON Schemas. Its parent kills it if it takes too long.

It reads two lines of JSON for each validation: a schema and a value. It writes one line: `{"broken": REASON}`, or
`{"errors": [{"path", "message", "schema_path"}]}` without errors if the value is valid. It imports nothing of
this package, so that it starts in about 40 ms.
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

LISTED_ERRORS = 20
MESSAGE_LIMIT_CHARS = 1_000
"""The limit of an error message, which quotes the invalid value."""
PATTERN_STEPS_LIMIT = 100_000
"""Backtracking steps of a `pattern`, a few milliseconds. Beyond them, the text counts as not matching."""
MEMORY_LIMIT_BYTES = 2 << 30
KEPT_SCHEMAS = 100

_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class BrokenSchemaError(Exception):
    """Not a JSON Schema; the text says where and why."""


def validator_of(schema: Any) -> jsonschema_rs.Validator:
    """Return a validator of draft 2020-12, or of the draft that `$schema` names. Raises `BrokenSchemaError`."""
    limits = jsonschema_rs.FancyRegexOptions(backtrack_limit=PATTERN_STEPS_LIMIT)
    try:
        # JSON Schema defines `format` as an annotation. A $ref to a URL is an error and is not fetched.
        return jsonschema_rs.validator_for(schema, validate_formats=False, pattern_options=limits, offline=True)
    except jsonschema_rs.ValidationError as error:
        raise BrokenSchemaError(f"{_json_path(error.instance_path)}: {error.message}") from None
    except ValueError as error:
        raise BrokenSchemaError(str(error)) from None


def errors_of(validator: jsonschema_rs.Validator, value: Any) -> list[dict[str, str]]:
    """Return the first errors; none if the value is valid."""
    try:
        return [_described(error) for error in islice(validator.iter_errors(value), LISTED_ERRORS)]
    except ValueError as fault:  # nested too deeply to compare
        return [{"path": "$", "message": f"cannot be validated: {fault}", "schema_path": ""}]


def main() -> None:
    with suppress(ValueError, OSError):  # macOS does not support the limit
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT_BYTES, MEMORY_LIMIT_BYTES))
    validator_of_text = lru_cache(KEPT_SCHEMAS)(lambda text: validator_of(json.loads(text)))
    lines = sys.stdin.buffer
    while schema := lines.readline():
        value = json.loads(lines.readline())
        try:
            outcome: dict[str, Any] = {"errors": errors_of(validator_of_text(schema), value)}
        except BrokenSchemaError as broken:
            outcome = {"broken": _truncated(str(broken))}
        sys.stdout.write(json.dumps(outcome) + "\n")
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
    """Return the path as JSONPath: `$.items[0]`."""
    return "$" + "".join(
        f".{step}" if isinstance(step, str) and _PLAIN_NAME.fullmatch(step) else f"[{json.dumps(step)}]"
        for step in steps
    )


if __name__ == "__main__":
    main()
