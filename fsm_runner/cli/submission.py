"""What a command line asks for, handing it to a coordinator, and saying what came of it."""

import dataclasses
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from fsm_runner.app.build import token_auth
from fsm_runner.cli.output import say, show_result
from fsm_runner.cli.parameters import parse_parameters
from fsm_runner.config.settings import LOCAL_COORDINATOR_URL, known_secrets, load_config
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.errors import NotAuthenticated, Refused
from fsm_runner.diagnostics.logs import configure_logs
from fsm_runner.errors import EXIT_FAILED, EXIT_OK, FsmRunnerError, UsageError
from fsm_runner.protocol.error_bodies import detail_of
from fsm_runner.protocol.statuses import UNSTARTED_RUN_STATUSES
from fsm_runner.protocol.wire import JsonObject, RunCreated, RunRequest, SessionEvent


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """The words and flags that say what is to be done."""

    agent_name: str | None = None
    words: tuple[str, ...] = ()
    prompt: str | None = None
    session_id: str | None = None
    """The session to resume; it keeps its agent and its profile."""

    def parameters(self, schema: JsonObject | None = None) -> JsonObject:
        """`schema` is the agent's. Raises `UsageError` naming what cannot be read or is missing."""
        parameters = parse_parameters(self.words, schema)
        if self.prompt is not None:
            if "prompt" in parameters:
                raise UsageError("--prompt TEXT is the same as prompt=TEXT: give one of them")
            parameters["prompt"] = self.prompt
        if self.session_id is not None and not parameters:
            raise UsageError("--session needs --prompt TEXT: what the session is to do next")
        if self.session_id is None and self.agent_name is None and "prompt" not in parameters:
            raise UsageError("there is nothing to do: name an AGENT, or give --prompt TEXT")
        return parameters


def work_of(agent: str | None, words: list[str], prompt: str | None, session_id: str | None = None) -> Work:
    """The first word is an agent unless it is a parameter. Raises `UsageError` naming the flag that is no good."""
    if agent is not None and "=" in agent:
        words, agent = [agent, *words], None
    if agent is not None and session_id is not None:
        raise UsageError(f"{agent!r} with --session: a session keeps its agent, so name none")
    for flag, text in (("--prompt", prompt), ("--session", session_id)):
        # A variable of the shell that is not set: an empty session must not become a new one.
        if text is not None and not check_text(flag, text).strip():
            raise UsageError(f"{flag}: there is nothing in it")
    return Work(agent_name=agent, words=tuple(words), prompt=prompt, session_id=session_id)


def check_text(flag: str, text: str) -> str:
    """Bytes of a command line that are not UTF-8 come as halves of surrogate pairs, which no JSON can hold."""
    try:
        text.encode()
    except UnicodeEncodeError as defect:
        raise UsageError(f"{flag}: {text!r}: not UTF-8 text") from defect
    return text


@asynccontextmanager
async def coordinator_api(url: str | None) -> AsyncIterator[CoordinatorApi]:
    """The coordinator that the flag, the environment or `.env` names, else the one on this machine."""
    config = load_config({"coordinator_url": url})
    named_url = config.coordinator_url or LOCAL_COORDINATOR_URL
    redactor = known_secrets()
    configure_logs(redactor, verbose=config.verbose, quiet=True)
    auth = token_auth(dataclasses.replace(config, coordinator_url=named_url), redactor)
    async with AsyncExitStack() as stack:
        if auth is not None:
            stack.push_async_callback(auth.aclose)
        yield await stack.enter_async_context(CoordinatorApi(named_url, auth))


async def create_run(api: CoordinatorApi, request: RunRequest) -> RunCreated:
    """Raises `UsageError` with the coordinator's reasons where it will not take the run."""
    try:
        return await api.create_run(request)
    except NotAuthenticated:
        raise
    except Refused as refusal:
        raise UsageError(_reason(request, refusal)) from refusal


async def earlier_results(api: CoordinatorApi, request: RunRequest) -> Counter[str]:
    """How many results of each timestamp the session has before it is resumed.

    Raises `UsageError` where there is no such session.
    """
    try:
        return Counter(event.timestamp for event in await _results(api, request.session_id or ""))
    except NotAuthenticated:
        raise
    except Refused as refusal:
        raise UsageError(_reason(request, refusal)) from refusal


async def say_outcome(api: CoordinatorApi, run_id: str, earlier: Counter[str] | None = None) -> int:
    """Print an ended run's result, and say on stderr why it did not complete. The exit code.

    `earlier`: what `earlier_results` gave before the run was submitted, where it resumes a session. Results are told
    apart by what was there before, not by comparing an executor's clock with the coordinator's. A resume that did not
    complete has no result here: it may have failed because another turn was at work, whose result came meanwhile.
    """
    run = await api.run(run_id)
    of_this_run = earlier is None or run.status == "completed"
    value = await _result(api, run.session_id, earlier) if of_this_run else None
    if value is not None:
        try:
            show_result(value)
        except OSError as fault:
            raise FsmRunnerError(
                f"run {run_id} {run.status}, but its result cannot be written to standard output: {fault.strerror}"
            ) from fault
    if run.status == "completed":
        return EXIT_OK
    status = "was stopped before it began" if run.status in UNSTARTED_RUN_STATUSES else run.status
    say(f"error: run {run_id} {status}" + (f": {run.error}" if run.error else ""))
    return EXIT_FAILED


async def _result(api: CoordinatorApi, session_id: str, earlier: Counter[str] | None) -> object:
    """The last result event, rather than the session's result: a coordinator has none for a run that failed."""
    left = Counter(earlier)
    last: SessionEvent | None = None
    for event in await _results(api, session_id):
        if left[event.timestamp] > 0:
            left[event.timestamp] -= 1
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
