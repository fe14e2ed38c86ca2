"""The OpenAPI documents in `specs/`, and the deployed coordinator's."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

SPECS = Path(__file__).parents[2] / "specs"
COORDINATOR, GATEWAY = "coordinator.openapi.json", "gateway.openapi.json"
METHODS = frozenset({"get", "put", "post", "delete", "patch", "head", "options", "trace"})
"""The HTTP methods of a path item."""

Json = Any
DOCUMENTS: Mapping[str, Json] = {file: json.loads((SPECS / file).read_text()) for file in (COORDINATOR, GATEWAY)}
"""The documents of this project's servers."""
DEPLOYED = "deployed_coordinator.openapi.json"
"""The document of a deployed coordinator."""

_all_documents = {**DOCUMENTS, DEPLOYED: json.loads((Path(__file__).parent / DEPLOYED).read_text())}
_registry: Registry[Any] = Registry().with_resources(
    (file, DRAFT202012.create_resource(document)) for file, document in _all_documents.items()
)


@cache
def _validator(reference: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": reference}, registry=_registry)


class Schema(NamedTuple):
    """One location in a document, with references resolved."""

    file: str
    pointer: str
    content: Json

    def at(self, *steps: str | int) -> "Schema":
        content = self.content
        for step in steps:
            content = content[step]
        pointer = "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)
        return followed(Schema(self.file, self.pointer + pointer, content))

    def defects(self, value: Json) -> list[str]:
        """Return how the value violates this schema."""
        validator = _validator(f"{self.file}#{self.pointer}")
        return [f"{each.json_path}: {each.message}" for each in validator.iter_errors(value)]


def followed(schema: Schema) -> Schema:
    while isinstance(schema.content, dict) and "$ref" in schema.content:
        file, _, pointer = schema.content["$ref"].partition("#")
        file = file or schema.file
        schema = Schema(file, pointer, _registry.resolver(file).lookup(f"#{pointer}").contents)
    return schema


def schema_named(file: str, name: str) -> Schema:
    """Return one of the document's `components`."""
    return Schema(file, "", _all_documents[file]).at("components", "schemas", name)


class Query(NamedTuple):
    name: str
    required: bool


class Operation(msgspec.Struct, frozen=True):
    """A method of a path."""

    method: str
    path: str
    """The path with placeholders in braces."""
    queries: tuple[Query, ...]
    body: Schema | None
    example: Json
    """An example of a valid body."""
    responses: Mapping[str, Schema]
    """The schemas by status."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def pattern(self) -> re.Pattern[str]:
        """Matches the paths of its requests."""
        return re.compile(re.sub(r"{\w+}", "[^/]+", self.path))

    def request_defects(self, body: bytes) -> list[str]:
        """Return how a request's body differs from the document."""
        if self.body is None:
            return ["a body is not documented"] if body else []
        try:
            request = json.loads(body)
        except ValueError as defect:
            return [f"not JSON: {defect}"]
        return self.body.defects(request)

    def defects(self, status: int, content_type: str, body: bytes) -> list[str]:
        """Return how a response differs from the document."""
        response = self.responses.get(str(status))
        if response is None:
            return [f"HTTP {status} is not documented: {body[:300]!r}"]
        contents = response.content.get("content")
        if contents is None:
            return ["a body is not documented"] if body else []
        kind = content_type.partition(";")[0]
        if kind not in contents:
            return [f"{content_type!r} is not documented"]
        if kind != "application/json":
            return []
        try:
            answer = json.loads(body)
        except ValueError as defect:
            return [f"not JSON: {defect}: {body[:300]!r}"]
        return response.at("content", kind, "schema").defects(answer)


@cache
def operations(file: str) -> tuple[Operation, ...]:
    return tuple(_operations(file))


@lru_cache(1_000)
def operation_of(file: str, method: str, path: str) -> Operation | None:
    """Return the operation of a request; None if the document has none."""
    named = sorted(operations(file), key=lambda each: each.path.count("{"))
    return next((each for each in named if each.method == method and each.pattern.fullmatch(path)), None)


def _operations(file: str) -> Iterator[Operation]:
    root = Schema(file, "", _all_documents[file])
    for path, item in root.content["paths"].items():
        for method in METHODS & item.keys():
            place = root.at("paths", path, method)
            parameters = place.content.get("parameters", [])
            body = place.at("requestBody", "content", "application/json") if "requestBody" in place.content else None
            yield Operation(
                method=method.upper(),
                path=path,
                queries=tuple(Query(each["name"], each["required"]) for each in parameters if each["in"] == "query"),
                body=None if body is None else body.at("schema"),
                example=None if body is None else body.content.get("example"),
                responses={status: place.at("responses", status) for status in place.content["responses"]},
            )
