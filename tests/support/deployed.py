"""Checks each request that the product sends in a test against the document of the deployed coordinator.

The servers that replace a coordinator in tests pass every request to `CHECKS`. It checks only requests with the
`User-Agent` of the product, not those of a test's own client. From executors, it checks binds, events and metadata,
because the product delivers these itself.
"""

import json
import re
from collections.abc import Iterable
from urllib.parse import parse_qs, quote, urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fsm_runner.coordinator_client.http_clients import USER_AGENT
from tests.support.openapi import DEPLOYED, operation_of

RawHeaders = Iterable[tuple[bytes, bytes]]

OTHER_SERVERS = re.compile(r"/oauth/token|/\.well-known/.*")
"""Paths of the token service, which tests may serve at the same address (docs/protocol.md, section 6)."""
GATEWAY_OPERATIONS = {("POST", "/bind"): "bind", ("POST", "/events"): "events", ("PATCH", "/metadata"): "metadata"}
"""The coordinator's path below the session for each request to the gateway."""

IGNORED_QUERIES = {
    "/runs": {"limit", "after", "parent_session_id", "agent_name", "runner_id", "tag", "created_after"},
    "/sessions": {"limit", "after"},
}
"""The fields of queries that a deployed coordinator ignores, and the product does not rely on (docs/queue.md)."""


class RequestChecks:
    """Collects what is wrong with the product's requests until `take` is called."""

    def __init__(self) -> None:
        self._defects: list[str] = []
        self.checked: set[str] = set()
        """The operations that the product has used so far."""

    def check(self, method: str, target: str, headers: RawHeaders, body: bytes) -> None:
        """Check a request of the product; ignore those of other clients. `target`: path and query."""
        if is_products(headers) and not OTHER_SERVERS.fullmatch(urlsplit(target).path):
            self._check(method, target, body)

    def check_executor(self, method: str, path: str, body: bytes) -> None:
        """Check a request to the gateway (docs/protocol.md, section 3) in the form in which it is forwarded."""
        operation = GATEWAY_OPERATIONS.get((method, path))
        if operation is None:
            self._check(method, path, body)
            return
        fields = json.loads(body) if body else None
        if not isinstance(fields, dict) or not fields.get("session_id"):
            self._defects.append(f"{method} {path}: there is no session_id: {body[:300]!r}")
            return
        session_id = fields["session_id"]
        if operation == "metadata":
            del fields["session_id"]
        elif operation == "bind":
            fields |= {"hostname": "host", "executor_profile": "profile"}
        self._check(method, f"/sessions/{quote(session_id, safe='')}/{operation}", json.dumps(fields).encode())

    def _check(self, method: str, target: str, body: bytes) -> None:
        found = self._found(method, target, body)
        self._defects += [f"{method} {target}: {defect}: {body[:300]!r}" for defect in found]

    def take(self) -> list[str]:
        taken, self._defects = self._defects, []
        return taken

    def _found(self, method: str, target: str, body: bytes) -> list[str]:
        parts = urlsplit(target)
        operation = operation_of(DEPLOYED, method, parts.path)
        if operation is None:
            return ["the deployed coordinator has no such call"]
        self.checked.add(str(operation))
        given = parse_qs(parts.query, keep_blank_values=True)
        missing = [query.name for query in operation.queries if query.required and query.name not in given]
        unknown = given.keys() - {query.name for query in operation.queries} - IGNORED_QUERIES.get(parts.path, set())
        return [
            *(f"the query has no {name}" for name in missing),
            *(f"the query has {name}, which is not documented" for name in unknown),
            *operation.request_defects(body),
        ]


CHECKS = RequestChecks()


def is_products(headers: RawHeaders) -> bool:
    """Return True if the `User-Agent` is that of the product."""
    return any(name.lower() == b"user-agent" and value == USER_AGENT.encode() for name, value in headers)


def checked(app: ASGIApp) -> ASGIApp:
    """Wrap an application so that `CHECKS` sees each of its requests."""

    async def checking(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_products(scope["headers"]):
            await app(scope, receive, send)
            return
        body, whole = bytearray(), not any(name == b"content-length" for name, _ in scope["headers"])

        async def received() -> Message:
            nonlocal whole
            message = await receive()
            body.extend(message.get("body", b""))
            whole = whole or (message["type"] == "http.request" and not message.get("more_body", False))
            return message

        try:
            await app(scope, received, send)
        finally:
            if whole:  # the application may refuse a request before it has read all of it
                query = b"?" + scope["query_string"] if scope["query_string"] else b""
                target = (scope["raw_path"] + query).decode("latin-1")
                CHECKS.check(scope["method"], target, scope["headers"], bytes(body))

    return checking
