"""Input that has to be refused: exit code 1, `Error: …` on stderr (protocol.md, section 2)."""

from collections.abc import Awaitable, Callable

from fsm_runner.conformance.attempt import Attempt, json_line, said_error
from fsm_runner.conformance.case import Case, CaseFailed
from fsm_runner.coordinator.wire import Run

REFUSED_CODE = 1
REQUIRED_FIELDS = ("schema_version", "mode", "session_id", "parameters")
UNSUPPORTED_VERSION = "99.0"
UNKNOWN_MODE = "meditate"

BAD_JSON = (b"this is no JSON\n", b'{"schema_version": "2.2", "mode": "start", "session_id": \n')
"""Something else altogether, and an object that breaks off."""


async def empty_input(attempt: Attempt) -> None:
    await _refused(attempt, b"")


async def bad_json(attempt: Attempt) -> None:
    for content in BAD_JSON:
        await _refused(attempt, content)


async def unsupported_version(attempt: Attempt) -> None:
    await _refused_with(attempt, schema_version=UNSUPPORTED_VERSION)


async def unknown_mode(attempt: Attempt) -> None:
    await _refused_with(attempt, mode=UNKNOWN_MODE)


def missing(field: str) -> Callable[[Attempt], Awaitable[None]]:
    async def check(attempt: Attempt) -> None:
        run = await attempt.stage.start_run()
        fields = attempt.fields(run)
        del fields[field]
        await _refused(attempt, json_line(fields), run)

    return check


async def _refused_with(attempt: Attempt, **changes: str) -> None:
    run = await attempt.stage.start_run()
    await _refused(attempt, attempt.line(run, **changes), run)


async def _refused(attempt: Attempt, content: bytes, run: Run | None = None) -> None:
    """Stdin is closed behind it in either lifecycle: an object that breaks off might still go on."""
    async with attempt.trial(run) as trial:
        if content:
            await trial.write(content)
        trial.close_input()
        ended = await trial.ended()
        if told := trial.record.told():
            raise CaseFailed(f"it told the gateway something, where it has to refuse its input: {told[0]}")
        if ended.code != REFUSED_CODE:
            raise CaseFailed(f"it ended {trial.how_it_ended}, where exit code 1 is asked for")
        if not said_error(trial.stderr):
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
