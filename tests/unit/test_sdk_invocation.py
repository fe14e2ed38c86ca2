"""The SDK's decoder of invocations."""

import json
from typing import Any

import jsonschema
import pytest

from fsm_executor.errors import ProtocolError
from fsm_executor.invocation import FIELDS, Invocation, decode_invocation, invocation_schema
from fsm_executor.lines import LineReader
from fsm_executor.messages import read_invocation

WHOLE: dict[str, Any] = {
    "schema_version": "2.2",
    "mode": "start",
    "session_id": "ses_1",
    "parameters": {"prompt": "hello"},
    "project_dir": "/project",
    "agent_name": "writer",
    "agent_blueprint": {"system_prompt": "Write."},
    "executor_config": {"model": "opus"},
    "metadata": {"trace": 1},
}

WRONG: dict[str, list[Any]] = {
    "schema_version": ["3.0", "2.1", "2.20", "2", "", "garbage", 2.2, ["2.2"]],
    "mode": ["restart", "START", "", 1, {}],
    "session_id": ["", 7, {}],
    "parameters": [[], "text", 3, False],
    "project_dir": [1],
    "agent_name": [[]],
    "agent_blueprint": ["text"],
    "executor_config": [[]],
}


def decoded(**fields: Any) -> Invocation:
    return decode_invocation(json.dumps({**WHOLE, **fields}).encode())


def refusal(text: bytes) -> str:
    with pytest.raises(ProtocolError) as refused:
        decode_invocation(text)
    return str(refused.value)


def read(text: bytes) -> Invocation:
    rest = [text]
    return read_invocation(LineReader(lambda _: rest.pop() if rest else b""))


def test_all_fields_are_decoded() -> None:
    assert decoded() == Invocation(**WHOLE)


def test_optional_fields_may_be_absent_or_null() -> None:
    required = {each.name for each in FIELDS if each.required}
    least = decode_invocation(json.dumps({name: WHOLE[name] for name in required}).encode())
    assert least == Invocation("2.2", "start", "ses_1", {"prompt": "hello"})
    assert (least.agent_blueprint, least.executor_config) == ({}, {})
    assert decoded(**{name: None for name in WHOLE if name not in required}) == least


@pytest.mark.parametrize("metadata", [None, 1, "text", [], {"a": {}}])
def test_metadata_and_unknown_fields_are_never_rejected(metadata: Any) -> None:
    assert decoded(metadata=metadata, unknown=metadata).metadata == metadata


@pytest.mark.parametrize("name", ["schema_version", "mode", "session_id", "parameters"])
def test_the_error_names_a_missing_field(name: str) -> None:
    given = {key: value for key, value in WHOLE.items() if key != name}
    assert refusal(json.dumps(given).encode()) == f"the invocation has no {name}"


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_the_error_names_an_invalid_field_and_the_expected_value(name: str, value: Any) -> None:
    message = refusal(json.dumps({**WHOLE, name: value}).encode())
    assert f"{name} must be " in message
    assert message.endswith(f", not {json.dumps(value)}")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**WHOLE, name: value}, invocation_schema())


def test_a_long_value_is_cut_in_the_message() -> None:
    assert len(refusal(json.dumps({**WHOLE, "mode": "x" * 10_000}).encode())) < 200


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"{", "bad JSON"),
        (b"not json", "bad JSON"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "bad JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"[]", "JSON object, not []"),
        (b"null", "JSON object, not null"),
    ],
)
def test_input_that_is_not_a_json_object_is_rejected(text: bytes, named: str) -> None:
    assert named in refusal(text)


def test_the_schema_is_valid_and_accepts_all_fields() -> None:
    jsonschema.Draft202012Validator.check_schema(invocation_schema())
    jsonschema.validate(WHOLE, invocation_schema())


def test_the_object_may_span_lines() -> None:
    assert read(json.dumps(WHOLE, indent=2).encode()) == Invocation(**WHOLE)
    assert read(b"\n \n" + json.dumps(WHOLE).encode()) == Invocation(**WHOLE)


@pytest.mark.parametrize("text", [b"", b"\n", b" \n\n\t"])
def test_empty_input_is_an_error(text: bytes) -> None:
    with pytest.raises(ProtocolError, match="standard input is empty"):
        read(text)


@pytest.mark.parametrize(
    "line", [b'{"a": }', b"{not json", b'{"a": "cut', b"tru", b"3", b"[]", b'{"a": 1} x', b"\xff", b'{"a": "b\\']
)
def test_bad_input_is_rejected_without_waiting_for_more(line: bytes) -> None:
    chunks = [line + b"\n"]
    with pytest.raises(ProtocolError):
        read_invocation(LineReader(lambda _: chunks.pop()))
