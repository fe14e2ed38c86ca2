"""Invalid input, which an executor must refuse: exit code 1, `Error: …` on stderr (protocol.md, section 2)."""

from collections.abc import Awaitable, Callable

from fsm_runner.conformance.case import REFUSED_CODE, Case, CaseContext, has_error_line, json_line
from fsm_runner.conformance.result import CaseFailed
from fsm_runner.protocol.wire import Run

REQUIRED_FIELDS = ("schema_version", "mode", "session_id", "parameters")
UNSUPPORTED_VERSION = "99.0"
UNKNOWN_MODE = "meditate"

BAD_JSON = (b"this is no JSON\n", b'{"schema_version": "2.2", "mode": "start", "session_id": \n')
"""Plain text, and a truncated object."""


async def empty_input(context: CaseContext) -> None:
    await _check_refuses(context, b"")


async def bad_json(context: CaseContext) -> None:
    for content in BAD_JSON:
        await _check_refuses(context, content)


async def unsupported_version(context: CaseContext) -> None:
    await _check_refuses_fields(context, schema_version=UNSUPPORTED_VERSION)


async def unknown_mode(context: CaseContext) -> None:
    await _check_refuses_fields(context, mode=UNKNOWN_MODE)


def missing(field: str) -> Callable[[CaseContext], Awaitable[None]]:
    async def check(context: CaseContext) -> None:
        run = await context.environment.start_run()
        fields = context.fields(run)
        del fields[field]
        await _check_refuses(context, json_line(fields), run)

    return check


async def _check_refuses_fields(context: CaseContext, **changes: str) -> None:
    run = await context.environment.start_run()
    await _check_refuses(context, context.line(run, **changes), run)


async def _check_refuses(context: CaseContext, content: bytes, run: Run | None = None) -> None:
    """Close stdin in either lifecycle, because a truncated object could otherwise still be completed."""
    async with context.process(run) as process:
        if content:
            await process.write(content)
        process.close_input()
        ended = await process.ended()
        if messages := process.record.session_messages():
            raise CaseFailed(f"it sent a message although it must refuse its input: {messages[0]}")
        if ended.code != REFUSED_CODE:
            raise CaseFailed(f"it exited {process.how_it_ended}; expected exit code 1")
        if not has_error_line(process.stderr):
            raise CaseFailed("stderr has no line of the form `Error: …`")


CASES = (
    Case(name="empty-stdin", asks="It refuses an empty stdin: exit code 1, `Error: …` on stderr.", check=empty_input),
    Case(name="bad-json", asks="It refuses input that is not JSON.", check=bad_json),
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
