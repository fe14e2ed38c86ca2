"""Parameters on the command line."""

from pathlib import Path
from typing import Any

import pytest

from fsm_runner.cli.parameters import parse_parameters, with_types_of
from fsm_runner.errors import UsageError
from fsm_runner.workflow.definition import Parameter, Workflow

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "ratio": {"type": "number"},
        "deep": {"type": "boolean"},
        "nothing": {"type": "null"},
        "options": {"type": "object"},
        "names": {"type": "array", "items": {"type": "string"}},
        "counts": {"type": "array", "items": {"type": "integer"}},
        "things": {"type": "array"},
        "grid": {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}},
        "maybe_count": {"type": ["integer", "null"]},
        "count_or_text": {"type": ["integer", "string"]},
        "counts_or_text": {"type": ["array", "string"], "items": {"type": "integer"}},
        "counts_or_nothing": {"type": ["array", "null"], "items": {"type": "integer"}},
        "anything": {},
        "sure": True,
        "odd": {"type": 5},
        "unknown_type": {"type": "colour"},
    },
}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("text=hello", "hello"),
        ("text=", ""),
        ("text=a=b", "a=b"),
        ("text=5", "5"),
        ("text=true", "true"),
        ('text="quoted"', '"quoted"'),
        ("count=5", 5),
        ("count=-5", -5),
        ("ratio=0.5", 0.5),
        ("ratio=2", 2),
        ("deep=true", True),
        ("deep=false", False),
        ("nothing=null", None),
        ('options={"a": [1]}', {"a": [1]}),
        ("names=", []),
        ("names=a", ["a"]),
        ("names=a,b,", ["a", "b", ""]),
        ('names=["a,b", "c"]', ["a,b", "c"]),
        ("counts=1,2", [1, 2]),
        ("things=1,b", ["1", "b"]),
        ("things=[1, null]", [1, None]),
        ("grid=1,2", [[1], [2]]),
        ("grid=[[1, 2], [3]]", [[1, 2], [3]]),
        ("maybe_count=5", 5),
        ("maybe_count=null", None),
        ("count_or_text=5", 5),
        ("count_or_text=five", "five"),
        ("counts_or_text=1,2", [1, 2]),
        ("counts_or_text=one,two", "one,two"),
        ("counts_or_nothing=null", None),
        ("anything=5", "5"),
        ("sure=5", "5"),
        ("odd=5", "5"),
        ("unknown_type=red", "red"),
        ("not-in-the-schema=5", "5"),
        ("-m=x", "x"),
        ("ключ=значение", "значение"),
    ],
)
def test_a_value_takes_the_type_that_the_schema_gives_its_key(word: str, value: object) -> None:
    key = word.partition("=")[0]
    parsed = parse_parameters([word], SCHEMA)
    assert parsed == {key: value}
    assert type(parsed[key]) is type(value)


@pytest.mark.parametrize(
    ("word", "types"),
    [
        ("count=five", "integer"),
        ("count=1.5", "integer"),
        ("count=", "integer"),
        ("count=9" + "9" * 5000, "integer"),
        ("ratio=nan", "number"),
        ("ratio=1e999", "number"),
        ("deep=yes", "boolean"),
        ("nothing=", "null"),
        ("options=[1]", "object"),
        ("options={", "object"),
        ("things=[1", "array"),
        ("counts=1,two", "array"),
        ("grid=a", "array"),
        ("maybe_count=five", "integer or null"),
        ("counts_or_nothing=one", "array or null"),
    ],
)
def test_text_of_another_type_is_reported_with_its_word(word: str, types: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_parameters([word], SCHEMA)
    assert str(refused.value).startswith(f"{word!r}: ")
    assert str(refused.value).endswith(f"is not of the declared type: {types}")


@pytest.mark.parametrize(
    "schema",
    [None, {}, {"properties": None}, {"properties": []}, {"properties": {"a": None}}, {"properties": {"a": 1}}],
)
def test_without_a_schema_for_the_key_a_value_is_text(schema: Any) -> None:
    assert parse_parameters(["a=5"], schema) == {"a": "5"}


@pytest.mark.parametrize(
    ("text", "value"), [("5", 5), ("null", None), ('{"a": [true]}', {"a": [True]}), ('"5"', "5"), (" [1] ", [1])]
)
def test_a_json_value_ignores_the_schema(text: str, value: object) -> None:
    assert parse_parameters([f"text:={text}"], SCHEMA) == {"text": value}


@pytest.mark.parametrize("text", ["", "{", "hello", "NaN", "1e999", "[" * 100_000])
def test_invalid_json_is_reported_with_its_word(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_parameters([f"key:={text}"], None)
    assert str(refused.value).startswith(f"{f'key:={text}'!r}: not JSON: ")


@pytest.mark.parametrize("word", ["", "hello", "=5", ":=5", "key", "key:"])
def test_a_word_without_key_or_value_is_a_usage_error(word: str) -> None:
    with pytest.raises(UsageError, match="expected key=value, key:=json or key=@file"):
        parse_parameters([word], None)


@pytest.mark.parametrize("again", ["a=1", "a:=1", "a=2"])
def test_a_duplicate_key_is_a_usage_error(again: str) -> None:
    with pytest.raises(UsageError, match="'a' is given twice"):
        parse_parameters(["a=1", "b=1", again], None)


def test_parameters_keep_their_order() -> None:
    assert list(parse_parameters(["b=1", "a=1", "c=1"], None)) == ["b", "a", "c"]


def test_a_file_s_text_is_the_value_and_takes_the_declared_type(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("ein Löffel\nZucker\n")
    (tmp_path / "count").write_text("5\n")
    words = [f"text=@{tmp_path / 'prompt.txt'}", f"count=@{tmp_path / 'count'}"]
    assert parse_parameters(words, SCHEMA) == {"text": "ein Löffel\nZucker\n", "count": 5}


def test_an_endless_file_is_read_up_to_the_limit() -> None:
    with pytest.raises(UsageError, match="/dev/zero is larger than 67,108,864 bytes"):
        parse_parameters(["text=@/dev/zero"], None)


def test_the_text_of_a_file_is_unchanged(tmp_path: Path) -> None:
    (tmp_path / "windows.txt").write_bytes(b"a\r\nb\r")
    assert parse_parameters([f"text=@{tmp_path / 'windows.txt'}"], SCHEMA) == {"text": "a\r\nb\r"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "No such file or directory"),
        (".", "Is a directory"),
        ("binary", "is not UTF-8 text"),
        ("x" * 300, "File name too long"),
        ("nul\0", "cannot be the path of a file"),
    ],
)
def test_an_unreadable_file_is_reported_with_the_reason(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError) as refused:
        parse_parameters([f"text=@{tmp_path}/{name}"], SCHEMA)
    assert reason in str(refused.value)
    assert "text=@" in str(refused.value)


@pytest.mark.parametrize("word", ["key=caf\udce9", "caf\udce9=x", "key:=caf\udce9", "caf\udce9=@x"])
def test_bytes_that_are_not_utf_8_are_a_usage_error(word: str) -> None:
    with pytest.raises(UsageError, match="not UTF-8 text") as refused:
        parse_parameters([word], None)
    str(refused.value).encode()


def test_a_workflow_declares_the_types_of_its_parameters() -> None:
    params: Any = {"n": Parameter(type="integer", default=3), "names": "list", "ports": "list", "on": "boolean"}
    workflow = Workflow(name="w", initial="completed", params={**params, "text": "string"}, states={})
    of_agent: Any = {"ports": {"items": {"type": "integer"}}, "n": {"type": "string"}, "own": {"type": "null"}}
    schema = with_types_of(workflow, {"properties": of_agent})
    words = ["n=7", "names=a,b", "ports=1,2", "on=true", "text=5", "own=null", "other=1"]
    assert parse_parameters(words, schema) == {
        "n": 7,
        "names": ["a", "b"],
        "ports": [1, 2],
        "on": True,
        "text": "5",
        "own": None,
        "other": "1",
    }
    with pytest.raises(UsageError, match="'seven' is not of the declared type: integer"):
        parse_parameters(["n=seven"], with_types_of(workflow, None))
