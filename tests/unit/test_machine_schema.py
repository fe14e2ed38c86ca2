"""The JSON Schema of the spec format: it is current, describes every field, and accepts the program's own specs."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from fsm_runner.cli.machine import app
from fsm_runner.machine.schema import schema, schema_text

ROOT = Path(__file__).parents[2]
FILE = ROOT / "fsm_runner" / "machine" / "spec.schema.json"


def test_the_file_in_the_package_is_current() -> None:
    assert FILE.read_text() == schema_text(), (
        "renew it: fsm-runner machine schema > fsm_runner/machine/spec.schema.json"
    )


def test_the_command_prints_it() -> None:
    assert CliRunner().invoke(app, ["schema"]).stdout == schema_text()


def test_it_is_valid_and_describes_each_field() -> None:
    Draft202012Validator.check_schema(schema())
    fields = {
        f"{name}.{key}": field for name, form in schema()["$defs"].items() for key, field in form["properties"].items()
    }
    assert [name for name, field in fields.items() if not field.get("description")] == []
    assert fields["Transition.from"]["description"].startswith("A state, a group, or a list of both.")


def _nulls(node: Any) -> bool:
    if isinstance(node, dict):
        return node.get("type") == "null" or any(map(_nulls, node.values()))
    return isinstance(node, list) and any(map(_nulls, node))


def test_it_allows_no_null_because_toml_has_none() -> None:
    assert not _nulls(schema())


@pytest.mark.parametrize("path", sorted((ROOT / "specs").glob("*.toml")), ids=lambda path: path.stem)
def test_each_spec_names_it_and_matches_it(path: Path) -> None:
    first_line = path.read_text().splitlines()[0]
    assert first_line.startswith("#:schema ")
    assert (path.parent / first_line.removeprefix("#:schema ")).resolve() == FILE
    Draft202012Validator(schema()).validate(tomllib.loads(path.read_text()))
