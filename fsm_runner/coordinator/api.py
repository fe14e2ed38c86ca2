"""One method for each call of the coordinator's API: one attempt, typed answer or typed fault.

Trying again is not done here; `client.py` and `outbox.py` do it with the numbers of `policy.py`.
Contract: protocol.md, section 1.
"""

from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import msgspec

from fsm_runner.coordinator import wire
from fsm_runner.coordinator.auth import NOT_REGISTERED_TEXT
from fsm_runner.coordinator.faults import (
    AgentNameCollision,
    DuplicateRunner,
    NotAuthenticated,
    NotRegistered,
    Refused,
    RegistrationConflictError,
    Unreachable,
)
from fsm_runner.coordinator.policy import ANSWER_LIMIT_S, CONNECT_LIMIT_S, POLL_MARGIN_S, SCRIPT_LIMIT_BYTES
from fsm_runner.errors import UsageError

TRANSIENT_STATUSES = frozenset({408, 425, 429})
SHOWN_ANSWER_CHARS = 300

Answer = TypeVar("Answer")


class UnreadableRun(msgspec.Struct, frozen=True):
    """A run that was handed out but is not what section 1.2 says; it can only be reported as failed."""

    run_id: str
    defect: str


class Polled(msgspec.Struct, frozen=True, kw_only=True):
    """What one poll brought; all empty where the coordinator had nothing."""

    run: wire.Run | UnreadableRun | None = None
    stop_sessions: tuple[str, ...] = ()
    sync_scripts: tuple[str, ...] = ()
    remove_scripts: tuple[str, ...] = ()
    deregistered: bool = False


class _PollBody(msgspec.Struct, frozen=True):
    """The answer to a poll, with the run left undecoded: a bad one must not hide its own id."""

    run: msgspec.Raw = msgspec.Raw()
    stop_sessions: tuple[str, ...] = ()
    sync_scripts: tuple[str, ...] = ()
    remove_scripts: tuple[str, ...] = ()
    deregistered: bool = False


class _RunId(msgspec.Struct, frozen=True):
    run_id: str


class _RunOfPoll(msgspec.Struct, frozen=True):
    run: _RunId


class _Conflict(msgspec.Struct, frozen=True):
    detail: wire.RegistrationConflict


class CoordinatorApi:
    """The coordinator at one URL. Use as an async context manager, or call `aclose`.

    Each call raises `Unreachable`, `NotRegistered` or `Refused` (and its kinds), nothing else.
    """

    def __init__(self, url: str, auth: httpx.Auth | None = None) -> None:
        self.url = checked_url(url)
        self._http = _http_client(self.url, auth)
        # The held poll has a connection of its own, so that no number of reports can keep it waiting.
        self._poll_http = _http_client(self.url, auth)

    async def __aenter__(self) -> "CoordinatorApi":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()
        await self._poll_http.aclose()

    async def health(self) -> None:
        await self._call("GET", "/health")

    async def register(self, registration: wire.Registration) -> wire.Registered:
        """Raises `DuplicateRunner` or `AgentNameCollision` where the answer is 409."""
        return self._decoded(await self._call("POST", "/runner/register", registration), wire.Registered)

    async def poll(self, runner_id: str, hold_s: float) -> Polled:
        """Hold one poll for the time that the coordinator holds it, and a margin."""
        answer = await self._call(
            "GET",
            f"/runner/runs?runner_id={path_segment(runner_id)}",
            http=self._poll_http,
            answer_limit_s=hold_s + POLL_MARGIN_S,
        )
        return Polled() if answer.status_code == httpx.codes.NO_CONTENT else self._polled(answer)

    async def heartbeat(self, runner_id: str) -> None:
        await self._call("POST", "/runner/heartbeat", wire.RunnerRef(runner_id), expect_object=True)

    async def deliver(self, path: str, body: bytes) -> None:
        """POST something that the coordinator acknowledges and says nothing else about: reports, binds, events."""
        await self._call("POST", path, body, expect_object=True)

    async def deregister(self, runner_id: str) -> None:
        await self._call("DELETE", f"/runners/{path_segment(runner_id)}?self=true")

    async def script_archive(self, name: str) -> bytes:
        """The gzip tar of a script. Raises `Refused` with status 404 where there is none."""
        answer = await self._call("GET", f"/scripts/{path_segment(name)}/download")
        if len(answer.content) > SCRIPT_LIMIT_BYTES:
            raise Refused(f"{answer.url}: the archive is larger than {SCRIPT_LIMIT_BYTES} bytes", 413)
        return answer.content

    async def agent(self, name: str) -> wire.Agent:
        return self._decoded(await self._call("GET", f"/agents/{path_segment(name)}"), wire.Agent)

    async def create_run(self, request: wire.RunRequest) -> wire.RunCreated:
        return self._decoded(await self._call("POST", "/runs", request), wire.RunCreated)

    async def run(self, run_id: str) -> wire.Run:
        return self._decoded(await self._call("GET", f"/runs/{path_segment(run_id)}"), wire.Run)

    async def runs(self, status: str | None = None) -> list[wire.Run]:
        query = "" if status is None else f"?status={path_segment(status)}"
        return self._decoded(await self._call("GET", f"/runs{query}"), wire.RunList).runs

    async def stop_run(self, run_id: str) -> None:
        await self._call("POST", f"/runs/{path_segment(run_id)}/stop", expect_object=True)

    async def session_result(self, session_id: str) -> wire.SessionResult:
        return self._decoded(
            await self._call("GET", f"/sessions/{path_segment(session_id)}/result"), wire.SessionResult
        )

    async def session_events(self, session_id: str) -> list[wire.SessionEvent]:
        answer = await self._call("GET", f"/sessions/{path_segment(session_id)}/events")
        return self._decoded(answer, wire.SessionEvents).events

    async def _call(
        self,
        method: str,
        path: str,
        body: msgspec.Struct | bytes | None = None,
        *,
        http: httpx.AsyncClient | None = None,
        answer_limit_s: float = ANSWER_LIMIT_S,
        expect_object: bool = False,
    ) -> httpx.Response:
        content = msgspec.json.encode(body) if isinstance(body, msgspec.Struct) else body
        headers = {"content-type": "application/json"} if content is not None else None
        limits = httpx.Timeout(answer_limit_s, connect=CONNECT_LIMIT_S, pool=None)
        try:
            answer = await (http or self._http).request(
                method, self.url + path, content=content, headers=headers, timeout=limits
            )
        except (httpx.ConnectError, httpx.ConnectTimeout) as fault:
            raise Unreachable(f"Cannot connect to Agent Coordinator at {self.url}: {_fault_text(fault)}") from fault
        except httpx.HTTPError as fault:
            raise Unreachable(f"{method} {self.url}{path}: {_fault_text(fault)}") from fault
        except httpx.InvalidURL as defect:
            message = f"{method} {self.url}: a name from outside makes no URL: {defect}"
            raise Refused(message, httpx.codes.REQUEST_URI_TOO_LONG) from defect
        if not answer.is_success:
            raise _fault_of(answer)
        if expect_object:
            self._decoded(answer, dict[str, Any])
        return answer

    def _decoded(self, answer: httpx.Response, form: type[Answer]) -> Answer:
        try:
            return msgspec.json.decode(answer.content, type=form)
        except wire.DECODE_FAULTS as defect:
            message = f"{_named(answer)}: not an answer of a coordinator: {defect}: {_shown(answer)}"
            raise Unreachable(message) from defect

    def _polled(self, answer: httpx.Response) -> Polled:
        body = self._decoded(answer, _PollBody)
        return Polled(
            run=self._claimed_run(answer, body.run) if bytes(body.run) else None,
            stop_sessions=body.stop_sessions,
            sync_scripts=body.sync_scripts,
            remove_scripts=body.remove_scripts,
            deregistered=body.deregistered,
        )

    def _claimed_run(self, answer: httpx.Response, raw: msgspec.Raw) -> wire.Run | UnreadableRun | None:
        try:
            return msgspec.json.decode(raw, type=wire.Run | None)
        except wire.DECODE_FAULTS as defect:
            run_id = self._decoded(answer, _RunOfPoll).run.run_id
            return UnreadableRun(run_id, f"the run that was handed out cannot be read: {defect}")


def checked_url(url: str) -> str:
    """The URL without a trailing slash. Raises `UsageError` where it is no http(s) URL with a host and no query."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in {"http", "https"} and bool(httpx.URL(url).host) and parts.port != 0
        sound = sound and not parts.query and not parts.fragment
    except (ValueError, httpx.InvalidURL):
        sound = False
    if not sound:
        raise UsageError(f"coordinator URL {url!r}: expected http://HOST[:PORT] or https://HOST[:PORT]")
    return url.rstrip("/")


def _http_client(url: str, auth: httpx.Auth | None) -> httpx.AsyncClient:
    """Raises `UsageError` where a variable of the environment, such as HTTPS_PROXY or SSL_CERT_FILE, is no good."""
    parts = urlsplit(url)
    try:
        return httpx.AsyncClient(
            auth=auth,
            limits=httpx.Limits(max_connections=100, max_keepalive_connections=100, keepalive_expiry=30),
            # A proxy has no business between a runner and a coordinator of the same machine.
            trust_env=parts.hostname not in {"localhost", "127.0.0.1", "::1"},
            # Certificates take memory and time to load, and plain HTTP has no use for them.
            verify=parts.scheme == "https",
        )
    except (ImportError, ValueError, OSError, httpx.InvalidURL) as fault:
        variables = "the proxy or certificate variables of the environment cannot be used"
        raise UsageError(f"coordinator URL {url!r}: {variables}: {fault}") from fault


def path_segment(text: str) -> str:
    """Any text as one segment of a path. A URL's `.` and `..` are no names: they are resolved before it is sent."""
    if text in {".", ".."}:
        return text.replace(".", "%2E")
    return quote(text, safe="", errors="surrogatepass")


def _fault_text(fault: httpx.HTTPError) -> str:
    """httpx has errors without a text, such as time-outs."""
    return str(fault) or type(fault).__name__


def _named(answer: httpx.Response) -> str:
    return f"{answer.request.method} {answer.request.url}: HTTP {answer.status_code}"


def _shown(answer: httpx.Response) -> str:
    text = " ".join(_text(answer).split())
    return text if len(text) <= SHOWN_ANSWER_CHARS else text[:SHOWN_ANSWER_CHARS] + "…"


def _text(answer: httpx.Response) -> str:
    """Not `answer.text`, which fails on some of the character sets that an answer can name."""
    return answer.content.decode(errors="replace")


def _fault_of(answer: httpx.Response) -> Unreachable | NotRegistered | Refused:
    status = answer.status_code
    message = f"{_named(answer)}: {_shown(answer)}"
    if status == httpx.codes.UNAUTHORIZED and NOT_REGISTERED_TEXT in _text(answer):
        return NotRegistered(message)
    if status in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
        return NotAuthenticated(message, status, answer.content)
    if status == httpx.codes.CONFLICT and (conflict := _registration_conflict(answer)) is not None:
        return conflict
    if httpx.codes.is_client_error(status) and status not in TRANSIENT_STATUSES:
        return Refused(message, status, answer.content)
    return Unreachable(message)


def _registration_conflict(answer: httpx.Response) -> RegistrationConflictError | None:
    try:
        detail = msgspec.json.decode(answer.content, type=_Conflict).detail
    except wire.DECODE_FAULTS:
        return None
    match detail.error:
        case "duplicate_runner":
            return DuplicateRunner(detail.message or "a runner with the same identity is online", detail)
        case "agent_name_collision":
            return AgentNameCollision(detail.message or f"agent {detail.agent_name} belongs to another runner", detail)
        case _:
            return None
