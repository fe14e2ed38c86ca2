"""The control socket of a runner: requests of its operator, as one line of JSON each, answered with one line of JSON.

Only the runner's user and root may use it, and no process that a run has started: an agent must not decide about
itself.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from loguru import logger

from fsm_runner.app.local_socket import LocalSocket, connected, serve_socket
from fsm_runner.diagnostics.logs import RareWarning
from fsm_runner.errors import EXIT_FAILED, EXIT_USAGE, FsmRunnerError, UsageError
from fsm_runner.process.errors import PeerUnknown
from fsm_runner.process.tree.peer import Peer, RunProcesses, is_own_user, peer_of
from fsm_runner.protocol.json_text import encode_json
from fsm_runner.protocol.wire import DECODE_FAULTS
from fsm_runner.util.text import excerpt

Form = TypeVar("Form")

SOCKET_FILE = "control.sock"
REQUEST_LIMIT_BYTES = 256 * 1024
REQUEST_LIMIT_S = 5.0
"""The time in which a request must arrive."""
REFUSED_CONNECTIONS = 8
"""How many clients that may make no requests get the time to send one. Further ones are closed at once, so that they
take no places of others."""
REFUSED_LIMIT_S = 1.0
"""The time that they get, because a client that cannot send does not read the answer."""
HANDLING_LIMIT_S = 20.0
"""The time in which a request must be handled."""
ANSWER_LIMIT_S = HANDLING_LIMIT_S + 5.0
"""How long a client waits for an answer."""
ALL_LIMIT_S = 5.0
"""How long a client waits for the answers of all runners, to a request that each answers at once."""
ANSWER_LIMIT_BYTES = 64 * 1024 * 1024

Request = msgspec.Struct
"""A request is a frozen Struct whose `tag_field` is `request`, so that its type is named in the JSON."""
Handler = Callable[[Any, Peer], Awaitable[object]]
"""Returns the answer to a request of its type, which JSON can express. Raises `FsmRunnerError` to refuse it."""
Handlers = Mapping[type[Request], Handler]


OWN_REQUEST = "a process that a run has started may not do this: use a shell outside all runs"
WARNED_EACH_S = 60.0
"""The shortest interval between warnings about such processes."""


class _Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    value: msgspec.Raw = msgspec.Raw()
    """The answer of the handler."""
    error: str | None = None
    """Why the request is refused."""
    exit_code: Annotated[int, msgspec.Meta(ge=1, le=255)] = EXIT_FAILED
    """That of the error, for the program of the client."""


class Refused(FsmRunnerError):
    """The runner has refused the request."""

    def __init__(self, reason: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(reason)
        self.exit_code = exit_code


class NotAnswered(FsmRunnerError):
    """The runner does not answer, or its socket may not be used."""


class AnswerLost(NotAnswered):
    """The runner has been asked and has not answered: it may have done what it was asked, or do it yet."""


class ControlServer:
    """Answers requests on one socket."""

    def __init__(self, handlers: Handlers, runs: RunProcesses) -> None:
        self._handlers = handlers
        self._runs = runs
        self._warning = RareWarning(WARNED_EACH_S)
        self._decoder = msgspec.json.Decoder(reduce(or_, handlers))
        self._refused_count = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer, refusal = self._identified(writer)  # before it is read, because the process may end meanwhile
        answer = _Answer(error=refusal) if peer is None else await self._answer_to(peer, reader)
        writer.write(encode_json(answer) + b"\n")
        async with asyncio.timeout(REQUEST_LIMIT_S):
            await writer.drain()
        if peer is None:
            await self._ignore_request(reader)

    async def _ignore_request(self, reader: asyncio.StreamReader) -> None:
        if self._refused_count >= REFUSED_CONNECTIONS:
            return
        self._refused_count += 1
        try:
            async with asyncio.timeout(REFUSED_LIMIT_S):
                await reader.readline()
        except (TimeoutError, ValueError):  # it is too slow, or longer than any request
            pass
        finally:
            self._refused_count -= 1

    async def _answer_to(self, peer: Peer, reader: asyncio.StreamReader) -> _Answer:
        try:
            request = await self._read(reader)
            async with asyncio.timeout(HANDLING_LIMIT_S):
                value = await self._handlers[type(request)](request, peer)
            return _Answer(msgspec.Raw(encode_json(value)))
        except FsmRunnerError as refusal:
            return _Answer(error=str(refusal), exit_code=refusal.exit_code)
        except TimeoutError:
            return _Answer(error="the request took too long")
        except OSError as fault:
            return _Answer(error=f"the request cannot be handled at present: {fault.strerror}")
        except Exception as defect:  # noqa: BLE001 - the client gets an answer, and the log the traceback
            logger.opt(exception=defect).error("a request at the control socket could not be handled")
            return _Answer(error="a defect of the runner, which its log describes")

    def _identified(self, writer: asyncio.StreamWriter) -> tuple[Peer | None, str]:
        """Return the client, or why it may make no requests."""
        connection = writer.get_extra_info("socket")
        try:
            peer = peer_of(connection)
            if not is_own_user(peer):
                return None, f"only the user of the runner may do this, not {peer.user_name}"
            if self._runs.has_started(peer, connection):
                self._warning.log("a request of process {} is refused, because a run has started it", peer.pid)
                return None, OWN_REQUEST
        except PeerUnknown as reason:
            return None, f"the client is not known: {reason}"
        except OSError as fault:
            return None, f"the request cannot be handled at present: {fault.strerror}"
        return peer, ""

    async def _read(self, reader: asyncio.StreamReader) -> Request:
        """Raises `UsageError`, TimeoutError or OSError."""
        try:
            async with asyncio.timeout(REQUEST_LIMIT_S):
                line = await reader.readline()
        except ValueError:
            raise UsageError(f"the request is longer than {REQUEST_LIMIT_BYTES:,} bytes") from None
        try:
            request: Request = self._decoder.decode(line)
        except DECODE_FAULTS as defect:
            raise UsageError(f"the request is invalid: {excerpt(str(defect))}") from None
        return request


@asynccontextmanager
async def serve_control(folder: Path, handlers: Handlers) -> AsyncIterator[None]:
    """Handle requests on a socket in `folder` until the context ends."""
    server = ControlServer(handlers, RunProcesses())
    described = LocalSocket(folder / SOCKET_FILE, "fsm-runner approve", REQUEST_LIMIT_BYTES)
    async with serve_socket(described, server.answer):
        yield


async def ask(path: Path, request: Request, form: type[Form], limit_s: float = ANSWER_LIMIT_S) -> Form | None:
    """Return the answer of the runner at this socket; None if no process serves it, or one in another container.

    Raises `Refused`, `UsageError` if the runner refuses the request as wrong, or `NotAnswered`.
    """
    not_answered: type[NotAnswered] = NotAnswered
    try:
        async with asyncio.timeout(limit_s), connected(path, ANSWER_LIMIT_BYTES) as (reader, writer):
            peer_of(writer.get_extra_info("socket"))
            writer.write(encode_json(request) + b"\n")
            not_answered = AnswerLost
            line = await reader.readline()
        if not line:
            raise AnswerLost(f"{path}: the runner has closed the connection without an answer")
        answer = msgspec.json.decode(line, type=_Answer)
        if answer.error is None:
            return msgspec.json.decode(answer.value, type=form)
    except (ConnectionRefusedError, FileNotFoundError, PeerUnknown):
        return None
    except PermissionError:
        raise NotAnswered(f"{path}: only the user of its runner and root may use this socket") from None
    except TimeoutError:
        raise not_answered(f"{path}: the runner has not answered within {limit_s:g} s") from None
    except (OSError, *DECODE_FAULTS, msgspec.MsgspecError) as fault:
        raise not_answered(f"{path}: the runner has not answered: {fault}") from None
    if answer.exit_code == EXIT_USAGE:
        raise UsageError(answer.error)
    raise Refused(answer.error, answer.exit_code)


async def ask_all(paths: Iterable[Path], request: Request, form: type[Form]) -> dict[Path, Form | FsmRunnerError]:
    """Return the answers of the running runners, or why they have refused the request, by socket."""
    paths = list(paths)
    answers = await asyncio.gather(*(ask(path, request, form, ALL_LIMIT_S) for path in paths), return_exceptions=True)
    found: dict[Path, Form | FsmRunnerError] = {}
    for path, answer in zip(paths, answers, strict=True):
        if isinstance(answer, BaseException) and not isinstance(answer, FsmRunnerError):
            raise answer
        if answer is not None:
            found[path] = answer
    return found
