"""The documents in `specs/` that say what the servers answer, as tests use them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

SPECS = Path(__file__).parents[2] / "specs"
COORDINATOR, GATEWAY = "coordinator.openapi.json", "gateway.openapi.json"
METHODS = frozenset({"get", "put", "post", "delete", "patch", "head", "options", "trace"})
"""What a path's item has beside its `parameters`."""

Json = Any
DOCUMENTS: Mapping[str, Json] = {file: json.loads((SPECS / file).read_text()) for file in (COORDINATOR, GATEWAY)}

_registry: Registry[Any] = Registry().with_resources(
    (file, DRAFT202012.create_resource(document)) for file, document in DOCUMENTS.items()
)


class Schema(NamedTuple):
    """One place in a document; a reference has been followed."""

    file: str
    pointer: str
    content: Json

    def at(self, *steps: str) -> "Schema":
        content = self.content
        for step in steps:
            content = content[step]
        pointer = "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)
        return followed(Schema(self.file, self.pointer + pointer, content))

    def defects(self, value: Json) -> list[str]:
        """What is wrong with the value by this schema."""
        validator = Draft202012Validator({"$ref": f"{self.file}#{self.pointer}"}, registry=_registry)
        return [f"{each.json_path}: {each.message}" for each in validator.iter_errors(value)]


def followed(schema: Schema) -> Schema:
    while isinstance(schema.content, dict) and "$ref" in schema.content:
        file, _, pointer = schema.content["$ref"].partition("#")
        file = file or schema.file
        schema = Schema(file, pointer, _registry.resolver(file).lookup(f"#{pointer}").contents)
    return schema


class Query(NamedTuple):
    name: str
    required: bool


class Operation(msgspec.Struct, frozen=True):
    """A method of a path."""

    method: str
    path: str
    """With names in braces."""
    queries: tuple[Query, ...]
    body: Schema | None
    example: Json
    """Of a body that is taken."""
    responses: Mapping[str, Schema]
    """By status."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    def defects(self, status: int, content_type: str, body: bytes) -> list[str]:
        """What of an answer is not as the document says."""
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


def operations(file: str) -> tuple[Operation, ...]:
    return tuple(_operations(file))


def _operations(file: str) -> Iterator[Operation]:
    root = Schema(file, "", DOCUMENTS[file])
    for path, item in DOCUMENTS[file]["paths"].items():
        for method in METHODS & item.keys():
            place = root.at("paths", path, method)
            parameters = place.content.get("parameters", [])
            body = place.at("requestBody", "content", "application/json") if "requestBody" in place.content else None
            yield Operation(
                method=method.upper(),
                path=path,
                queries=tuple(Query(each["name"], each["required"]) for each in parameters if each["in"] == "query"),
                body=None if body is None else body.at("schema"),
                example=None if body is None else body.content["example"],
                responses={status: place.at("responses", status) for status in place.content["responses"]},
            )
