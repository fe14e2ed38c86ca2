"""The types of values that match a JSON Schema."""

from typing import Any

from fsm_runner.workflow.definition import JsonSchema
from fsm_runner.workflow.value_types import ANY, Kind, ValueType, merged

PARTS_LIMIT = 2_000
"""Parts of a schema that are examined, since `$ref`s can double them at each level. What others describe is `ANY`."""
DEPTH_LIMIT = 32

_KINDS = {
    "string": Kind.TEXT,
    "integer": Kind.INTEGER,
    "number": Kind.NUMBER,
    "boolean": Kind.BOOLEAN,
    "null": Kind.NULL,
    "array": Kind.LIST,
    "object": Kind.OBJECT,
}


def type_of_schema(schema: JsonSchema) -> ValueType:
    """Return the type of the values that match a schema, which may be invalid. `ANY` if it does not say."""
    return _Types(schema).of(schema, 0)


class _Types:
    def __init__(self, root: JsonSchema) -> None:
        self._root = root
        self._left = PARTS_LIMIT

    def of(self, schema: Any, depth: int) -> ValueType:
        self._left -= 1
        if not isinstance(schema, dict) or depth > DEPTH_LIMIT or self._left < 0:
            return ANY
        if (reference := schema.get("$ref")) is not None:
            return self.of(self._referred(reference), depth + 1)
        for key in ("anyOf", "oneOf"):
            if isinstance(choices := schema.get(key), list) and choices:
                return self._one_of([self.of(it, depth + 1) for it in choices])
        if isinstance(parts := schema.get("allOf"), list) and "type" not in schema:
            return self.of(parts[0], depth + 1) if len(parts) == 1 else ANY
        return self._one_of([self._of_kind(kind, schema, depth) for kind in _kinds(schema)])

    def _of_kind(self, kind: Kind, schema: JsonSchema, depth: int) -> ValueType:
        if kind is Kind.LIST:
            return ValueType(kind, element=ANY if "prefixItems" in schema else self.of(schema.get("items"), depth + 1))
        properties = schema.get("properties")
        if kind is not Kind.OBJECT or not isinstance(properties, dict) or not properties:
            return ValueType(kind)
        required = schema.get("required")
        always = set(map(str, required)) if isinstance(required, list) else set()
        fields = {}
        for name, part in properties.items():
            found = self.of(part, depth + 1)
            fields[name] = ValueType(found.kind, found.fields, found.element, is_optional=name not in always)
        return ValueType(kind, fields)

    def _one_of(self, types: list[ValueType]) -> ValueType:
        if not types:
            return ANY
        first, *others = types
        for other in others:
            first = merged(first, other)
        return first

    def _referred(self, reference: Any) -> Any:
        """Return the part of the schema at a JSON Pointer, or None."""
        if not isinstance(reference, str) or not reference.startswith("#"):
            return None
        found: Any = self._root
        for part in reference[1:].split("/")[1:]:
            found = found.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
        return found


def _kinds(schema: JsonSchema) -> list[Kind]:
    declared = schema.get("type")
    names = [declared] if isinstance(declared, str) else declared if isinstance(declared, list) else []
    kinds = [_KINDS[name] for name in names if isinstance(name, str) and name in _KINDS]
    if kinds:
        return kinds
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        return [_kind_of(value) for value in values]
    return [Kind.OBJECT] if isinstance(schema.get("properties"), dict) else []


def _kind_of(value: Any) -> Kind:
    kinds = {bool: Kind.BOOLEAN, int: Kind.INTEGER, float: Kind.NUMBER, str: Kind.TEXT, list: Kind.LIST}
    return kinds.get(type(value), Kind.NULL if value is None else Kind.OBJECT)
