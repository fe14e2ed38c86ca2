"""Parameters against an agent's `parameters_schema` (protocol.md, section 1.3).

Parameters may come from an executor: whatever they are, checking them has an end. So the work for a `pattern` is
bounded. The library that does this is imported only when there is a schema to check.
"""

import json
import re
from collections.abc import Iterable
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING

from fsm_runner.coordinator.embedded.refusal import Refusal
from fsm_runner.coordinator.wire import JsonObject

if TYPE_CHECKING:
    from jsonschema_rs import ValidationError, Validator

SHOWN_ERRORS = 20
PATTERN_STEPS_LIMIT = 100_000
"""How often a `pattern` may go back and try another way: a text takes some milliseconds then, and does not match."""

PROMPT_SCHEMA: JsonObject = {
    "type": "object",
    "properties": {"prompt": {"type": "string"}},
    "required": ["prompt"],
}
"""What an autonomous agent without a schema of its own takes."""


_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class BrokenSchemaError(Exception):
    """A `parameters_schema` that is no JSON Schema; the text says where and why."""


class ParameterCheck:
    """The check for one schema, prepared once: Draft 2020-12 or what `$schema` says. Nothing is fetched."""

    def __init__(self, schema: JsonObject) -> None:
        """Raises BrokenSchemaError."""
        self.schema = schema
        self._validator = _validator_for(schema)

    def refuse_unless_valid(self, parameters: JsonObject) -> None:
        """Raises a 400 Refusal that lists what does not fit."""
        try:
            errors = [_described(error) for error in islice(self._validator.iter_errors(parameters), SHOWN_ERRORS)]
        except ValueError as fault:  # nested more deeply than can be compared
            errors = [{"path": "$", "message": f"cannot be checked: {fault}", "schema_path": ""}]
        if errors:
            raise Refusal(
                400,
                {
                    "error": "parameter_validation_failed",
                    "message": f"Parameters do not match the agent's schema: {errors[0]['message']}",
                    "validation_errors": errors,
                    "parameters_schema": self.schema,
                },
            )


@cache
def prompt_check() -> ParameterCheck:
    """The check for `PROMPT_SCHEMA`."""
    return ParameterCheck(PROMPT_SCHEMA)


def broken_schema(defect: str) -> Refusal:
    message = f"The agent's parameters_schema is no valid JSON Schema: {defect}"
    return Refusal(400, {"error": "invalid_parameters_schema", "message": message})


def _validator_for(schema: JsonObject) -> "Validator":
    import jsonschema_rs

    limits = jsonschema_rs.FancyRegexOptions(backtrack_limit=PATTERN_STEPS_LIMIT)
    try:
        # A `format` is a note, as JSON Schema has it; a $ref to an address is refused, not fetched.
        return jsonschema_rs.validator_for(schema, validate_formats=False, pattern_options=limits, offline=True)
    except jsonschema_rs.ValidationError as error:
        raise BrokenSchemaError(f"{_json_path(error.instance_path)}: {error.message}") from None
    except ValueError as error:
        raise BrokenSchemaError(str(error)) from None


def _described(error: "ValidationError") -> JsonObject:
    return {
        "path": _json_path(error.instance_path),
        "message": error.message,
        "schema_path": "/".join(map(str, error.schema_path)),
    }


def _json_path(steps: Iterable[str | int]) -> str:
    """As JSONPath writes it: `$.items[0]`."""
    return "$" + "".join(
        f".{step}" if isinstance(step, str) and _PLAIN_NAME.fullmatch(step) else f"[{json.dumps(step)}]"
        for step in steps
    )
