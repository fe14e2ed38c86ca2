"""The work that a command line names, its submission to a coordinator, and its result."""

import dataclasses
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import msgspec

from fsm_runner.app.build import token_auth
from fsm_runner.cli.output import say, show_result
from fsm_runner.cli.parameters import check_utf8, parse_parameters
from fsm_runner.config.settings import LOCAL_COORDINATOR_URL, known_secrets, load_config
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.errors import NotAuthenticated, Refused
from fsm_runner.diagnostics.logs import configure_logs
from fsm_runner.errors import EXIT_FAILED, EXIT_OK, FsmRunnerError, UsageError
from fsm_runner.protocol.error_bodies import detail_of
from fsm_runner.protocol.statuses import UNSTARTED_RUN_STATUSES
from fsm_runner.protocol.wire import JsonObject, RunCreated, RunRequest, SessionEvent


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """The words and flags of a command line that define a run."""

    agent_name: str | None = None
    words: tuple[str, ...] = ()
    prompt: str | None = None
    session_id: str | None = None
    """The session to resume; it keeps its agent and its profile."""

    def parameters(self, schema: JsonObject | None = None) -> JsonObject:
        """Return the parameters. `schema` is that of the agent. Raises `UsageError` for invalid and missing words."""
        parameters = parse_parameters(self.words, schema)
        if self.prompt is not None:
            if "prompt" in parameters:
                raise UsageError("--prompt TEXT is the same as prompt=TEXT: give one of them")
            parameters["prompt"] = self.prompt
        if self.session_id is not None and not parameters:
            raise UsageError("--session needs --prompt TEXT or parameters for the next turn")
        if self.session_id is None and self.agent_name is None and "prompt" not in parameters:
            raise UsageError("nothing to do: name an AGENT, or give --prompt TEXT")
        return parameters


def work_of(agent: str | None, words: list[str], prompt: str | None, session_id: str | None = None) -> Work:
    """Return the work. The first word is an agent unless it is a parameter. Raises `UsageError` for invalid flags."""
    if agent is not None and "=" in agent:
        words, agent = [agent, *words], None
    if agent is not None and session_id is not None:
        raise UsageError(f"{agent!r} with --session: a session keeps its agent, so name no agent")
    for flag, text in (("--prompt", prompt), ("--session", session_id)):
        if text is None:
            continue
        check_utf8(f"{flag}: {text!r}", text)
        # The value may be an unset variable of the shell. Without a session's id, a new session would begin.
        if not text.strip():
            raise UsageError(f"{flag}: the value is empty")
    return Work(agent_name=agent, words=tuple(words), prompt=prompt, session_id=session_id)


@asynccontextmanager
async def coordinator_api(url: str | None) -> AsyncIterator[CoordinatorApi]:
    """Yield the API of the coordinator that the flag, the environment or `.env` names, else of the local one."""
    config = load_config({"coordinator_url": url})
    named_url = config.coordinator_url or LOCAL_COORDINATOR_URL
    redactor = known_secrets()
    configure_logs(redactor, verbose=config.verbose, quiet=True)
    auth = token_auth(dataclasses.replace(config, coordinator_url=named_url), redactor)
    async with AsyncExitStack() as stack:
        if auth is not None:
            stack.push_async_callback(auth.aclose)
        yield await stack.enter_async_context(CoordinatorApi(named_url, auth))


@contextmanager
def usage_error_of(text: Callable[[Refused], str]) -> Iterator[None]:
    """Raise `UsageError` with this text if the coordinator refuses a call, except if it rejects the credentials."""
    try:
        yield
    except NotAuthenticated:
        raise
    except Refused as refusal:
        raise UsageError(text(refusal)) from refusal


async def create_run(api: CoordinatorApi, request: RunRequest) -> RunCreated:
    """Submit a run. Raises `UsageError` with the coordinator's reason if it refuses the run."""
    with usage_error_of(lambda refusal: _reason(request, refusal)):
        return await api.create_run(request)


async def earlier_results(api: CoordinatorApi, request: RunRequest) -> Counter[str]:
    """Count a session's results by timestamp before it is resumed. Raises `UsageError` if there is no such session."""
    with usage_error_of(lambda refusal: _reason(request, refusal)):
        return Counter(event.timestamp for event in await _results(api, request.session_id or ""))


async def say_outcome(api: CoordinatorApi, run_id: str, earlier: Counter[str] | None = None) -> int:
    """Print the result of an ended run, and on stderr why it did not complete. Return the exit code.

    `earlier` are the `earlier_results` of a resumed session. They identify the results of this run, because the
    clocks of executor and coordinator may differ. The result of a resume that did not complete is not printed: it may
    belong to another turn, because of which this one failed as busy.
    """
    run = await api.run(run_id)
    has_own_result = earlier is None or run.status == "completed"
    value = await _result(api, run.session_id, earlier) if has_own_result else None
    if value is not None:
        try:
            show_result(value)
        except OSError as error:
            raise FsmRunnerError(
                f"run {run_id} {run.status}, but its result cannot be written to standard output: {error.strerror}"
            ) from error
    if run.status == "completed":
        return EXIT_OK
    status = "was stopped before it began" if run.status in UNSTARTED_RUN_STATUSES else run.status
    say(f"error: run {run_id} {status}" + (f": {run.error}" if run.error else ""))
    return EXIT_FAILED


async def _result(api: CoordinatorApi, session_id: str, earlier: Counter[str] | None) -> object:
    """Return the last result event. A coordinator has no session result for a run that failed."""
    remaining = Counter(earlier)
    last: SessionEvent | None = None
    for event in await _results(api, session_id):
        if remaining[event.timestamp] > 0:
            remaining[event.timestamp] -= 1
        elif last is None or event.timestamp >= last.timestamp:
            last = event
    if last is None:
        return None
    return last.result_text if last.result_data is None else last.result_data


async def _results(api: CoordinatorApi, session_id: str) -> list[SessionEvent]:
    return [event for event in await api.session_events(session_id) if event.event_type == "result"]


def _reason(request: RunRequest, refusal: Refused) -> str:
    resumed = request.type == "resume_session"
    detail = detail_of(refusal.body)
    if detail is None:
        return str(refusal)
    if isinstance(detail, str):
        reason = detail or str(refusal)
    elif isinstance(detail, list):
        reason = f"the coordinator refuses the request: {'; '.join(map(str, detail)) or refusal}"
    elif detail.validation_errors:
        whose = f"agent {request.agent_name!r}" if request.agent_name else "a run without an agent"
        reasons = "; ".join(map(str, detail.validation_errors))
        return f"{'the session' if resumed else whose} does not take these parameters: {reasons}"
    else:
        reason = detail.message or detail.error or str(refusal)
    return f"session {request.session_id!r} is not resumed: {reason}" if resumed else reason
