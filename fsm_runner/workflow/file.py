"""Reads a workflow's file: its contents, their lines, and every deviation from the format."""

import functools
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path as FilePath
from typing import Any, TypeVar

import msgspec

from fsm_runner.errors import UsageError
from fsm_runner.machine.decoder import Problem, problems, similar
from fsm_runner.machine.defects import Defect, Path, SpecError, in_order, place_of
from fsm_runner.machine.schema import without_null
from fsm_runner.machine.spec import Spec
from fsm_runner.machine.spec_file import parse_toml, read_text
from fsm_runner.machine.toml_lines import TomlLines
from fsm_runner.protocol.json_text import decode_json, json_error
from fsm_runner.protocol.wire import DECODE_FAULTS
from fsm_runner.util.text import quoted
from fsm_runner.workflow.definition import JsonSchema, Workflow
from fsm_runner.workflow.expansion import expansion_of

_Form = TypeVar("_Form", bound=msgspec.Struct)
_INTEGERS = range(-(2**63), 2**63)


class WorkflowError(UsageError):
    """A workflow's file is not sound. The text has one line for each defect."""

    def __init__(self, defects: Iterable[Defect]) -> None:
        self.defects = in_order(defects)
        super().__init__("\n".join(str(defect) for defect in self.defects))


class WorkflowFile(msgspec.Struct, frozen=True, kw_only=True):
    """The content of a file, for the check."""

    path: str
    text: str
    definition: Workflow | None
    """None if the file deviates from the format: `defects` says how."""
    schemas: dict[str, JsonSchema] = {}
    """By name of the state. One that could not be read is left out."""
    lines: TomlLines = msgspec.field(default_factory=TomlLines)
    defects: tuple[Defect, ...] = ()
    """The deviations from the format, and the schemas that could not be read."""

    def defect(self, path: Path, message: str) -> Defect:
        """Return a defect at a place: keys of tables and indices of lists."""
        return Defect(self.path, self.lines.of(path), place_of(path), message)


class LoadedWorkflow(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A workflow that can be executed. The same content is loaded once, so runs share it."""

    definition: Workflow
    path: str
    text: str
    sha256: str
    """The hash of the text, in hexadecimal."""
    schemas: dict[str, JsonSchema]
    """By name of the state, files resolved."""
    spec: Spec
    """The workflow as a machine (`expansion.py`)."""


def read_workflow(path: FilePath | str) -> WorkflowFile:
    """Return the content of a file, with all deviations from the format. Raises `WorkflowError` if it is not TOML."""
    try:
        text = read_text(path)
        return _read(str(path), text, parse_toml(path, text))
    except SpecError as error:
        raise WorkflowError(error.defects) from error


def load_workflow(path: FilePath | str, known: LoadedWorkflow | None = None) -> LoadedWorkflow:
    """Return the sound workflow in a file. Raises `WorkflowError` with every defect.

    `known`: what the file contained before. If it has not changed, it is returned, and not checked again.
    """
    from fsm_runner.workflow.check import check  # it judges what this module reads

    if known is not None and _is_unchanged(path, known):
        return known
    file = read_workflow(path)
    if defects := check(file):
        raise WorkflowError(defects)
    return _loaded(file.path, file.text, msgspec.json.encode(file.schemas))


def restore_workflow(path: str, text: str, schemas: Mapping[str, JsonSchema]) -> LoadedWorkflow:
    """Return a workflow from the journal, which has its path, its text, and its schemas by state.

    It was checked when its run began. Raises `WorkflowError` if this version of the program cannot decode it.
    """
    return _loaded(path, text, msgspec.json.encode(dict(schemas)))


@functools.lru_cache(maxsize=64)
def _loaded(path: str, text: str, schemas: bytes) -> LoadedWorkflow:
    try:
        raw = parse_toml(path, text)
    except SpecError as error:
        raise WorkflowError(error.defects) from error
    definition, deviations = decoded(raw, Workflow)
    if definition is None or (deviations := [*_unknown_states(definition)]):
        raise WorkflowError(_defects(path, text, deviations))
    return LoadedWorkflow(
        definition=definition,
        path=path,
        text=text,
        sha256=hashlib.sha256(text.encode()).hexdigest(),
        schemas=msgspec.json.decode(schemas, type=dict[str, JsonSchema]),
        spec=expansion_of(definition).spec,
    )


def _is_unchanged(path: FilePath | str, known: LoadedWorkflow) -> bool:
    try:
        return read_text(path) == known.text and _schemas(path, known.definition) == (known.schemas, [])
    except SpecError:  # reading it again says what is wrong
        return False


def _read(path: str, text: str, raw: dict[str, Any]) -> WorkflowFile:
    definition, deviations = decoded(raw, Workflow)
    schemas: dict[str, JsonSchema] = {}
    if definition is not None:
        schemas, unreadable = _schemas(path, definition)
        deviations += unreadable
    return WorkflowFile(
        path=path,
        text=text,
        definition=definition,
        schemas=schemas,
        lines=TomlLines(text),
        defects=_defects(path, text, deviations),
    )


def _defects(path: str, text: str, found: Iterable[Problem]) -> tuple[Defect, ...]:
    lines = TomlLines(text)
    return in_order(Defect(path, lines.of(at), place_of(at), message) for at, message in found)


def _unknown_states(definition: Workflow) -> Iterator[Problem]:
    """Yield the states that the engine would need and does not have."""
    expansion = expansion_of(definition)
    targets = [
        (transition.to, place) for transition, place in zip(expansion.spec.transitions, expansion.places, strict=True)
    ]
    for name, place in ((definition.initial, ("initial",)), *targets):
        if name not in expansion.spec.states:
            yield Problem(place, f"{quoted(name)} is not a state{similar(name, definition.all_states)}")


def decoded(raw: dict[str, Any], form: type[_Form]) -> tuple[_Form | None, list[Problem]]:
    """Return the content of a TOML file, or None and the reasons. A time becomes text, as JSON has none."""
    deviations = [*_unsuitable(raw)]
    if deviations:
        return None, deviations
    raw = msgspec.to_builtins(raw)
    try:
        return msgspec.convert(raw, form), []
    except msgspec.ValidationError as error:
        found = [*problems(raw, _schema_of(form))]
        return None, found or [Problem((), str(error))]


def _unsuitable(value: Any, at: Path = ()) -> Iterator[Problem]:
    """Yield what values of TOML cannot be anywhere in a file: numbers that JSON cannot express, and NUL in texts."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _unsuitable(part, (*at, key))
    elif isinstance(value, float) and not math.isfinite(value):
        yield Problem(at, f"must be a finite number, not {value}")
    elif isinstance(value, int) and value not in _INTEGERS:
        yield Problem(at, "must be a whole number of at most 64 bits")
    elif isinstance(value, str) and "\0" in value:
        yield Problem(at, "contains a NUL character: remove it")


@functools.cache
def _schema_of(form: type) -> dict[str, Any]:
    schema: dict[str, Any] = without_null(msgspec.json.schema(form))
    return schema


def _schemas(path: FilePath | str, definition: Workflow) -> tuple[dict[str, JsonSchema], list[Problem]]:
    """Return the schemas by state, and those that cannot be read."""
    schemas: dict[str, JsonSchema] = {}
    unreadable: list[Problem] = []
    for name, state in definition.states.items():
        if isinstance(state.schema, dict):
            schemas[name] = state.schema
        elif state.schema is not None:
            try:
                schemas[name] = _schema(FilePath(path).parent, state.schema)
            except ValueError as error:
                unreadable.append(Problem(("states", name, "schema"), str(error)))
    return schemas, unreadable


def _schema(folder: FilePath, relative: str) -> JsonSchema:
    """Return the JSON Schema in a file beside the workflow. Raises `ValueError` with the reason if it has none."""
    path = FilePath(relative)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{relative!r} must be the path of a file in the folder of the workflow, or below it")
    try:
        content = read_text(folder / path).encode()
        schema = decode_json(content)
    except SpecError as error:
        raise ValueError(str(error)) from error
    except DECODE_FAULTS as error:
        raise ValueError(f"{folder / path}: is not JSON: {json_error(content, error)}") from error
    if not isinstance(schema, dict):
        raise ValueError(f"{folder / path}: must contain a JSON Schema, which is an object")
    return schema
