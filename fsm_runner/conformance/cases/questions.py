"""`--version` and `--schema` (protocol.md, section 2)."""

import re
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.validators import validator_for

from fsm_runner.conformance.case import CaseContext, case
from fsm_runner.conformance.result import CaseFailed
from fsm_runner.executors.messages import SCHEMA_VERSION
from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.wire import DECODE_FAULTS

_VERSION = re.compile(rf"(?<!\d)(?<!\d\.){re.escape(SCHEMA_VERSION)}(?!\.?\d)")
"""Does not match within another version, such as 12.2, 1.2.2 or 2.2.1."""
_ANNOTATIONS = frozenset({"$schema", "$id", "$defs", "definitions", "title", "description", "default", "examples"})


@case("version", f"With --version it prints the protocol versions that it supports, including {SCHEMA_VERSION}.")
async def version(context: CaseContext) -> None:
    output = await _output(context, "--version")
    if not names_version(output):
        raise CaseFailed(f"its output does not contain the protocol version {SCHEMA_VERSION}")


def names_version(text: str) -> bool:
    return _VERSION.search(text) is not None


@case("schema", "With --schema it prints a JSON Schema (a JSON object).")
async def schema(context: CaseContext) -> None:
    output = await _output(context, "--schema")
    try:
        decoded: Any = decode_json(output)
    except DECODE_FAULTS as defect:
        raise CaseFailed(f"its output is not JSON: {defect}") from None
    if not isinstance(decoded, dict):
        raise CaseFailed("its output is JSON, but not an object")
    validator = validator_for(decoded, default=Draft202012Validator)
    try:
        validator.check_schema(decoded)
    except SchemaError as defect:
        raise CaseFailed(f"its output is not a JSON Schema: {defect.json_path}: {defect.message}") from None
    if decoded and not decoded.keys() & (_ANNOTATIONS | validator.VALIDATORS.keys()):
        raise CaseFailed("its output is a JSON object without any keyword of JSON Schema")


async def _output(context: CaseContext, option: str) -> str:
    async with context.process(arguments=(option,), has_input=False) as process:
        ended = await process.ended()
        if ended.code != 0:
            raise CaseFailed(f"it exited {process.how_it_ended}; expected exit code 0")
        return process.stdout


CASES = (version, schema)
