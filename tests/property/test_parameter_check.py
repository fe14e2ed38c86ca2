"""Any schema is either reported as broken or validates any parameters."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fsm_runner.json_schema.check_program import (
    LISTED_ERRORS,
    BrokenSchemaError,
    errors_of,
    validator_of,
)

TYPES = ("object", "array", "string", "integer", "number", "boolean", "null", "no-type", 1)
REFERENCES = ("#", "#/$defs/a", "#/properties/a", "#/nowhere", "http://127.0.0.1:9/x", "file:///etc/passwd", "a b", 1)
PATTERNS = ("^(a+)+$", r"^(a|aa)+\1$", "(?=a)", "[", "", "\\", "a{9999}{9999}", "\\p{L}", "(?<n>a)\\k<n>")
DIALECTS = ("http://json-schema.org/draft-04/schema#", "http://json-schema.org/draft-07/schema#", "urn:none", "", 1)
NAMES = st.sampled_from(("a", "b", "a b", "", "$ref", "ü"))

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text("a!\0ü", max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


def keywords(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    many = st.lists(inner, max_size=3)
    named = st.dictionaries(NAMES, inner, max_size=3)
    numbers = st.integers(-1, 3) | st.floats(allow_nan=False)
    return st.fixed_dictionaries(
        {},
        optional={
            "$schema": st.sampled_from(DIALECTS),
            "$defs": named,
            "$ref": st.sampled_from(REFERENCES),
            "type": st.sampled_from(TYPES) | st.lists(st.sampled_from(TYPES), max_size=2),
            "properties": named,
            "patternProperties": st.dictionaries(st.sampled_from(PATTERNS), inner, max_size=2),
            "additionalProperties": inner,
            "unevaluatedProperties": inner,
            "required": st.lists(NAMES, max_size=2),
            "items": inner,
            "uniqueItems": st.booleans(),
            "pattern": st.sampled_from(PATTERNS),
            "format": st.sampled_from(("date", "email", "no-format")),
            "enum": st.lists(values, max_size=3),
            "const": values,
            "minimum": numbers,
            "multipleOf": numbers,
            "maxLength": numbers,
            "allOf": many,
            "oneOf": many,
            "not": inner,
        },
    )


schemas = st.recursive(keywords(st.booleans() | values), keywords, max_leaves=6)


@given(schemas, st.dictionaries(NAMES, values, max_size=4))
def test_a_schema_is_broken_or_validates(schema: dict[str, Any], parameters: dict[str, Any]) -> None:
    try:
        validator = validator_of(schema)
    except BrokenSchemaError as broken:
        assert str(broken)
        return
    errors = errors_of(validator, parameters)
    assert len(errors) <= LISTED_ERRORS
    for error in errors:
        assert error["path"].startswith("$")
        assert error["message"]
