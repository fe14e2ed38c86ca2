"""Parameters against an agent's `parameters_schema` (protocol.md, section 1.3).

jsonschema is imported only when there is a schema to check.
"""

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

from fsm_runner.coordinator.embedded.refusal import Refusal
from fsm_runner.coordinator.wire import JsonObject

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

SHOWN_ERRORS = 20

PROMPT_SCHEMA: JsonObject = {
    "type": "object",
    "properties": {"prompt": {"type": "string"}},
    "required": ["prompt"],
}
"""What an autonomous agent without a schema of its own takes."""


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
            errors = _described(self._validator.iter_errors(parameters))
        except Exception as error:  # noqa: BLE001 - a schema with a dangling $ref or a bad pattern raises anything
            raise broken_schema(f"{type(error).__name__}: {error}") from None
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
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    try:
        kind = validator_for(schema, default=Draft202012Validator)
        kind.check_schema(schema)
    except SchemaError as error:
        raise BrokenSchemaError(f"{error.json_path}: {error.message}") from None
    except (RecursionError, TypeError, ValueError) as error:
        raise BrokenSchemaError(f"{type(error).__name__}: {error}") from None
    # An empty registry: a $ref to an address is refused, not fetched.
    return kind(schema, registry=Registry())


def _described(errors: "Iterable[ValidationError]") -> list[dict[str, Any]]:
    described = []
    for error in errors:
        described.append(
            {
                "path": error.json_path,
                "message": error.message,
                "schema_path": "/".join(str(step) for step in error.absolute_schema_path),
            }
        )
        if len(described) == SHOWN_ERRORS:
            break
    return described
