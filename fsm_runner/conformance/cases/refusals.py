"""Input that has to be refused: exit code 1, `Error: …` on stderr (protocol.md, section 2)."""

from collections.abc import Awaitable, Callable

from fsm_runner.conformance.case import Case, CaseFailed
from fsm_runner.conformance.case_context import CaseContext, json_line, said_error
from fsm_runner.protocol.wire import Run

REFUSED_CODE = 1
REQUIRED_FIELDS = ("schema_version", "mode", "session_id", "parameters")
UNSUPPORTED_VERSION = "99.0"
UNKNOWN_MODE = "meditate"

BAD_JSON = (b"this is no JSON\n", b'{"schema_version": "2.2", "mode": "start", "session_id": \n')
"""Something else altogether, and an object that breaks off."""


async def empty_input(context: CaseContext) -> None:
    await _refused(context, b"")


async def bad_json(context: CaseContext) -> None:
    for content in BAD_JSON:
        await _refused(context, content)


async def unsupported_version(context: CaseContext) -> None:
    await _refused_with(context, schema_version=UNSUPPORTED_VERSION)


async def unknown_mode(context: CaseContext) -> None:
    await _refused_with(context, mode=UNKNOWN_MODE)


def missing(field: str) -> Callable[[CaseContext], Awaitable[None]]:
    async def check(context: CaseContext) -> None:
        run = await context.environment.start_run()
        fields = context.fields(run)
        del fields[field]
        await _refused(context, json_line(fields), run)

    return check


async def _refused_with(context: CaseContext, **changes: str) -> None:
    run = await context.environment.start_run()
    await _refused(context, context.line(run, **changes), run)


async def _refused(context: CaseContext, content: bytes, run: Run | None = None) -> None:
    """Stdin is closed behind it in either lifecycle: an object that breaks off might still go on."""
    async with context.process(run) as process:
        if content:
            await process.write(content)
        process.close_input()
        ended = await process.ended()
        if told := process.record.told():
            raise CaseFailed(f"it told the gateway something, where it has to refuse its input: {told[0]}")
        if ended.code != REFUSED_CODE:
            raise CaseFailed(f"it ended {process.how_it_ended}, where exit code 1 is asked for")
        if not said_error(process.stderr):
            raise CaseFailed("no line on stderr begins with `Error: ` and says what is wrong")


CASES = (
    Case(name="empty-stdin", asks="It refuses an empty stdin: exit code 1, `Error: …` on stderr.", check=empty_input),
    Case(name="bad-json", asks="It refuses what is no JSON.", check=bad_json),
    *(
        Case(
            name=f"no-{field.replace('_', '-')}",
            asks=f"It refuses an invocation without {field}.",
            check=missing(field),
        )
        for field in REQUIRED_FIELDS
    ),
    Case(
        name="unsupported-version",
        asks=f"It refuses a schema_version that it does not support ({UNSUPPORTED_VERSION}).",
        check=unsupported_version,
    ),
    Case(name="unknown-mode", asks="It refuses a mode that it does not know.", check=unknown_mode),
)
