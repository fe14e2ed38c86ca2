"""What an invocation may hold without failing an executor (protocol.md, section 2)."""

from typing import Any

from fsm_runner.conformance import assertions
from fsm_runner.conformance.case import Case, CaseFailed
from fsm_runner.conformance.case_context import CaseContext, said_error
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


async def unknown_fields(context: CaseContext) -> None:
    await _carried_out(context, **UNKNOWN_FIELDS)


async def metadata(context: CaseContext) -> None:
    await _carried_out(context, metadata=METADATA)


async def huge_parameter(context: CaseContext) -> str | None:
    """A model takes no prompt of any length. One that has bound its session has read all of the invocation."""
    async with context.process() as process:
        try:
            await process.take_turn(context.line(process.run, parameters=_with_text(context, "x" * HUGE_CHARACTERS)))
        except CaseFailed:
            has_bound = any(each.accepted for each in process.record.binds())
            if process.exit is None or process.exit.code == 0 or not has_bound or not said_error(process.stderr):
                raise
            return "refuses it"
        assertions.a_result(process.record.results())
    return None


async def unusual_text(context: CaseContext) -> None:
    async with context.process() as process:
        await process.take_turn(context.line(process.run, parameters=_with_text(context, UNUSUAL_TEXT)))
        assertions.a_result(process.record.results())


def _with_text(context: CaseContext, text: str) -> JsonObject:
    """The parameters of the trial, the first text among them replaced."""
    parameters = context.environment.parameters
    texts = [name for name, value in parameters.items() if isinstance(value, str)]
    name = DEFAULT_PARAMETER if DEFAULT_PARAMETER in texts or not texts else texts[0]
    return {**parameters, name: text}


async def _carried_out(context: CaseContext, **changes: Any) -> None:
    async with context.process() as process:
        await process.take_turn(context.line(process.run, **changes))


CASES = (
    Case(
        name="unknown-fields",
        asks="Fields that it does not know never fail it.",
        check=unknown_fields,
        needs_start=True,
    ),
    Case(name="metadata", asks="metadata never fails it.", check=metadata, needs_start=True),
    Case(
        name="huge-parameter",
        asks=f"It carries out a start with a parameter of {HUGE_CHARACTERS:,} characters, or refuses it once bound.",
        check=huge_parameter,
        needs_start=True,
    ),
    Case(
        name="unicode",
        asks="It carries out a start with any Unicode in a parameter, and tells a result in valid UTF-8.",
        check=unusual_text,
        needs_start=True,
    ),
)
