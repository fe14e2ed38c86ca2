"""Generates the JSON Schema of the spec format from the Structs in `spec`."""

import ast
import functools
import inspect
import itertools
import json
from typing import Any, cast

import msgspec

from fsm_runner.machine import spec


@functools.cache
def schema() -> dict[str, Any]:
    """Return the schema. Editors show the docstrings of the fields as descriptions."""
    generated = without_null(msgspec.json.schema(spec.Spec))
    for name, definition in generated["$defs"].items():
        form = getattr(spec, name)
        definition["description"] = inspect.getdoc(form)
        descriptions = _field_docs(form)
        for field in msgspec.structs.fields(form):
            definition["properties"][field.encode_name]["description"] = descriptions[field.name]
    dialect = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": dialect, "title": "Machine of fsm-runner", **generated}


def schema_text() -> str:
    return json.dumps(schema(), indent=2) + "\n"


def without_null(node: Any) -> Any:
    """TOML has no null: what may be null can only be left out."""
    if isinstance(node, list):
        return [without_null(inner) for inner in node if inner != {"type": "null"}]
    if not isinstance(node, dict):
        return node
    tidy = {key: without_null(inner) for key, inner in node.items() if (key, inner) != ("default", None)}
    return {**tidy.pop("anyOf")[0], **tidy} if len(tidy.get("anyOf", ())) == 1 else tidy


def _field_docs(form: type) -> dict[str, str]:
    """The string behind each field of a class, on one line."""
    statements = cast(ast.ClassDef, ast.parse(inspect.getsource(form)).body[0]).body
    return {
        ast.unparse(field.target): " ".join(str(after.value.value).split())
        for field, after in itertools.pairwise(statements)
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    }
