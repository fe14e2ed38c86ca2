"""The rule that schemas are JSON Schemas."""

from collections.abc import Iterator

from fsm_runner.json_schema.check_program import BrokenSchemaError, validator_of
from fsm_runner.machine.decoder import Problem
from fsm_runner.util.text import excerpt
from fsm_runner.workflow.check.context import Context


def schema_is_a_json_schema(context: Context) -> Iterator[Problem]:
    for name, schema in context.schemas.items():
        try:
            validator_of(schema)
        except BrokenSchemaError as broken:
            yield Problem(("states", name, "schema"), f"is not a JSON Schema: {excerpt(str(broken))}")
