"""The rule that schemas are JSON Schemas."""

from collections.abc import Iterator

from fsm_runner.json_schema.check_program import BrokenSchemaError, validator_of
from fsm_runner.machine.decoder import Problem
from fsm_runner.util.text import excerpt
from fsm_runner.workflow.check.context import Context

_KEYWORDS = frozenset(
    [
        "type",
        "enum",
        "const",
        "properties",
        "required",
        "additionalProperties",
        "patternProperties",
        "propertyNames",
        "minProperties",
        "maxProperties",
        "items",
        "prefixItems",
        "contains",
        "minItems",
        "maxItems",
        "uniqueItems",
        "minLength",
        "maxLength",
        "pattern",
        "format",
        "minimum",
        "maximum",
        "exclusiveMinimum",
        "exclusiveMaximum",
        "multipleOf",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
        "if",
        "then",
        "else",
        "title",
        "description",
        "default",
        "examples",
        "definitions",
        "dependentRequired",
        "dependentSchemas",
        "unevaluatedProperties",
        "unevaluatedItems",
    ]
)


def schema_is_a_json_schema(context: Context) -> Iterator[Problem]:
    for name, schema in context.schemas.items():
        try:
            validator_of(schema)
        except BrokenSchemaError as broken:
            yield Problem(("states", name, "schema"), f"is not a JSON Schema: {excerpt(str(broken))}")
            continue
        if schema and not any(key.startswith("$") or key in _KEYWORDS for key in schema):
            example = (
                'schema = { type = "object", properties = { summary = { type = "string" } }, required = ["summary"] }'
            )
            message = f"has no keyword of JSON Schema, so every value would match it; write, for example, {example}"
            yield Problem(("states", name, "schema"), message)
