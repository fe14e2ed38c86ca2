"""Unusual invocations that must not fail an executor (protocol.md, section 2)."""

from typing import Any

from fsm_runner.conformance import assertions
from fsm_runner.conformance.case import CaseContext, case, has_error_line
from fsm_runner.conformance.result import CaseFailed
from fsm_runner.protocol.wire import JsonObject

HUGE_CHARACTERS = 5_000_000
DEFAULT_PARAMETER = "prompt"

UNKNOWN_FIELDS: JsonObject = {"priority": 7, "labels": ["a", "b"], "origin": {"schema_version": "1.0"}, "note": None}
METADATA: JsonObject = {"source": "conformance", "attempt": 2, "nested": {"schema_version": "0.1", "mode": "none"}}

UNUSUAL_TEXT = (
    "emoji 🦉👩‍🚀🏳️‍🌈, right to left שלום مرحبا, combining e\u0301 n\u0303, wide 漢字 한국어, astral 𝔘𐍈, "
    "quotes \" ' `, backslash \\ \\n, brackets <&>{}[]$(x)%s, line breaks \n\r\n\u0085\u2028\u2029, tab \t, "
    "control \u0001\u0007\u001b[31m\u007f, invisible \u00a0\u200b\u202e\ufeff, last \uffff\U0010ffff"
)


@case("unknown-fields", "It ignores fields that it does not know.", needs_start=True)
async def unknown_fields(context: CaseContext) -> None:
    await _check_starts(context, **UNKNOWN_FIELDS)


@case("metadata", "It accepts any metadata.", needs_start=True)
async def metadata(context: CaseContext) -> None:
    await _check_starts(context, metadata=METADATA)


@case(
    "huge-parameter",
    f"It completes a start with a parameter of {HUGE_CHARACTERS:,} characters, or refuses it after the bind.",
    needs_start=True,
)
async def huge_parameter(context: CaseContext) -> str | None:
    """Executors may refuse the prompt, since models limit its length. The bind shows that they have read all of it."""
    async with context.process() as process:
        try:
            await process.run_turn(context.line(process.run, parameters=_with_text(context, "x" * HUGE_CHARACTERS)))
        except CaseFailed:
            has_bound = any(each.accepted for each in process.record.binds())
            if process.exit is None or process.exit.code == 0 or not has_bound or not has_error_line(process.stderr):
                raise
            return "refuses it"
        assertions.has_result(process.record.results())
    return None


@case(
    "unicode",
    "It completes a start with any Unicode in a parameter, and sends a result in valid UTF-8.",
    needs_start=True,
)
async def unusual_text(context: CaseContext) -> None:
    async with context.process() as process:
        await process.run_turn(context.line(process.run, parameters=_with_text(context, UNUSUAL_TEXT)))
        assertions.has_result(process.record.results())


def _with_text(context: CaseContext, text: str) -> JsonObject:
    """Return the parameters of the check with the prompt, or else the first text, replaced."""
    parameters = context.environment.parameters
    texts = [name for name, value in parameters.items() if isinstance(value, str)]
    name = DEFAULT_PARAMETER if DEFAULT_PARAMETER in texts or not texts else texts[0]
    return {**parameters, name: text}


async def _check_starts(context: CaseContext, **changes: Any) -> None:
    async with context.process() as process:
        await process.run_turn(context.line(process.run, **changes))


CASES = (unknown_fields, metadata, huge_parameter, unusual_text)
