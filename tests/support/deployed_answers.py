"""A coordinator whose responses are generated from the document of the deployed coordinator."""

from collections.abc import Mapping
from typing import Any, Literal

import msgspec
from starlette.types import Receive, Scope, Send

from tests.support.openapi import DEPLOYED, Operation, Schema, operation_of, schema_named

Filling = Literal["required", "all", "nulls"]
"""Which fields a response has: the required ones, all, or all with null wherever it is allowed."""
FILLINGS: tuple[Filling, ...] = ("required", "all", "nulls")

KNOWN: Mapping[str, Any] = {
    "runner_id": "rnr_1",
    "run_id": "run_1",
    "session_id": "ses_1",
    "type": "start_session",
    "created_at": "2026-01-01T00:00:00.000000Z",
    "timestamp": "2026-01-01T00:00:00.000000Z",
    "event_type": "result",
}
"""Values of fields whose schema is less exact than docs/protocol.md, by name."""


class DeployedCoordinator:
    """An ASGI application. `statuses` are the runs' and sessions', `refusing` answers each call with a 422."""

    def __init__(self, filling: Filling, *, status: str = "completed", refusing: bool = False) -> None:
        self.filling: Filling = filling
        self.bodies: list[tuple[str, Any]] = []
        """Request bodies, with method and path."""
        self._known = {**KNOWN, "status": status}
        self._refusing = refusing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        operation = operation_of(DEPLOYED, scope["method"], scope["path"])
        assert operation is not None, scope["path"]
        if body:
            self.bodies.append((f"{scope['method']} {scope['path']}", msgspec.json.decode(bytes(body))))
        status = 422 if self._refusing else min(map(int, operation.responses))
        answer = msgspec.json.encode(self.answer(operation, str(status)))
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    def answer(self, operation: Operation, status: str) -> Any:
        schema = operation.responses[status].at("content", "application/json", "schema")
        return self._undocumented(operation) if schema.content == {} else self.instance(schema)

    def _undocumented(self, operation: Operation) -> Any:
        """Responses whose shape is only in docs/protocol.md."""
        match str(operation):
            case "GET /runner/runs":
                return {"run": {**self._of("RunResponse"), "resolved_agent_blueprint": self._of("Agent")}}
            case "GET /sessions/{session_id}":
                return {"session": self._of("SessionResponse")}
            case "GET /runners":
                return {"runners": [{"runner_id": "rnr_1", "status": "online", "executor_profile": "echo"}]}
            case _:
                return {"ok": True}

    def _of(self, name: str) -> Any:
        return self.instance(schema_named(DEPLOYED, name))

    def instance(self, schema: Schema, name: str = "") -> Any:
        """A value of this schema; `name`: of the field that has it."""
        content = schema.content
        if "anyOf" in content:
            kinds = [schema.at("anyOf", index) for index in range(len(content["anyOf"]))]
            if self.filling == "nulls" and {"type": "null"} in content["anyOf"]:
                return None
            return self.instance(kinds[0], name)
        match content.get("type"):
            case "object":
                fields = content.get("properties", {})
                wanted = content.get("required", ()) if self.filling == "required" else fields
                return {field: self.instance(schema.at("properties", field), field) for field in wanted}
            case "array":
                return [self.instance(schema.at("items"))]
            case "integer":
                return 30
            case "boolean":
                return True
            case "string":
                return self._text(content, name)
            case _:
                return {"any": ["thing"]}

    def _text(self, content: Any, name: str) -> Any:
        if "const" in content:
            return content["const"]
        return content["enum"][0] if "enum" in content else self._known.get(name, f"text of {name}")
