"""Validates the `data` of a step against the schema of its state."""

from typing import Any

from fsm_runner.json_schema.checker import SchemaChecker
from fsm_runner.process.errors import SpawnFailed
from fsm_runner.protocol.json_text import encode_json
from fsm_runner.protocol.wire import JsonObject


async def defect_of(data: Any, schema: JsonObject, checker: SchemaChecker) -> str | None:
    """Return why the data does not match the schema, for the error of a value; None if it matches."""
    try:
        checked = await checker.check(encode_json(schema), encode_json(data))
    except SpawnFailed as fault:
        return f"its data cannot be compared with the schema: {fault}"
    if checked.broken is not None:
        return f"the schema of the state is no JSON Schema: {checked.broken}"
    if checked.errors:
        first = checked.errors[0]
        return f"its data does not match the schema of the state: {first['path']}: {first['message']}"
    return None
