"""`--version` and `--schema` (protocol.md, section 2)."""

import re
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for

from fsm_runner.conformance.case import Case, CaseFailed
from fsm_runner.conformance.case_context import CaseContext
from fsm_runner.executors.messages import SCHEMA_VERSION
from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.wire import DECODE_FAULTS

_VERSION = re.compile(rf"(?<!\d)(?<!\d\.){re.escape(SCHEMA_VERSION)}(?!\.?\d)")
"""Not as a part of another version: 12.2, 1.2.2, 2.2.1."""
_PLAIN_KEYWORDS = frozenset({"$schema", "$id", "$defs", "definitions", "title", "description", "default", "examples"})


async def version(context: CaseContext) -> None:
    printed = await _printed(context, "--version")
    if not names_version(printed):
        raise CaseFailed(f"what it printed does not name the protocol's version, {SCHEMA_VERSION}")


def names_version(text: str) -> bool:
    return _VERSION.search(text) is not None


async def schema(context: CaseContext) -> None:
    printed = await _printed(context, "--schema")
    try:
        decoded: Any = decode_json(printed)
    except DECODE_FAULTS as defect:
        raise CaseFailed(f"what it printed is no JSON: {defect}") from None
    if not isinstance(decoded, dict):
        raise CaseFailed("what it printed is JSON, but no object")
    validator = validator_for(decoded, default=Draft202012Validator)
    try:
        validator.check_schema(decoded)
    except SchemaError as defect:
        raise CaseFailed(f"what it printed is no JSON Schema: {defect.json_path}: {defect.message}") from None
    if decoded and not decoded.keys() & (_PLAIN_KEYWORDS | validator.VALIDATORS.keys()):
        raise CaseFailed("what it printed is a JSON object, but has none of the keywords of a JSON Schema")


async def _printed(context: CaseContext, option: str) -> str:
    async with context.process(arguments=(option,), has_input=False) as process:
        ended = await process.ended()
        if ended.code != 0:
            raise CaseFailed(f"it ended {process.how_it_ended}, where exit code 0 is asked for")
        return process.stdout


CASES = (
    Case(
        name="version",
        asks=f"With --version it prints the versions of the protocol that it knows, {SCHEMA_VERSION} among them.",
        check=version,
    ),
    Case(name="schema", asks="With --schema it prints a JSON Schema, a JSON object.", check=schema),
)
