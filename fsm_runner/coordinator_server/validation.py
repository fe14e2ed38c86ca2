"""Validates parameters against an agent's `parameters_schema` (protocol.md, section 1.3)."""

import msgspec

from fsm_runner.coordinator_server.errors import InvalidRequest, Unavailable
from fsm_runner.json_schema.checker import SchemaChecker
from fsm_runner.process.errors import SpawnFailed
from fsm_runner.protocol.wire import JsonObject


class ParameterValidator:
    """Validates one set of parameters after another. End it with `aclose`."""

    def __init__(self) -> None:
        self._checker = SchemaChecker()

    async def validate(self, schema: JsonObject, parameters: JsonObject) -> None:
        """Raise `InvalidRequest` if the parameters or the schema are invalid; `Unavailable` if no process can start."""
        try:
            checked = await self._checker.check(msgspec.json.encode(schema), msgspec.json.encode(parameters))
        except SpawnFailed as fault:
            raise Unavailable(f"Parameters cannot be validated at the moment: {fault}") from None
        if checked.broken is not None:
            message = f"The agent's parameters_schema is not a valid JSON Schema: {checked.broken}"
            raise InvalidRequest({"error": "invalid_parameters_schema", "message": message})
        if checked.errors:
            raise InvalidRequest(
                {
                    "error": "parameter_validation_failed",
                    "message": f"Parameters do not match the agent's schema: {checked.errors[0]['message']}",
                    "validation_errors": checked.errors,
                    "parameters_schema": schema,
                }
            )

    async def aclose(self) -> None:
        await self._checker.aclose()
