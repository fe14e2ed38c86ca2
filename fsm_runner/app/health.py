"""The health check of a runner: a socket in the folder of its journal, which its event loop serves."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from fsm_runner.app.local_socket import LocalSocket, connected, serve_socket
from fsm_runner.process.errors import PeerUnknown
from fsm_runner.process.tree.peer import peer_of
from fsm_runner.protocol.json_text import encode_json

SOCKET_FILE = "health.sock"
ANSWER_LIMIT_S = 3.0
"""A healthy runner answers at once. One that has not answered after this time hangs."""
LONGEST_ANSWER_BYTES = 64 * 1024


class Health(msgspec.Struct, frozen=True):
    """The answer of a runner."""

    state: str
    """The state of the runner's machine."""
    runs: int
    """The number of runs that the runner holds."""
    problem: str | None = None
    """A message for the operator about a fault that makes the runner unhealthy in any state."""
    is_unhealthy_state: bool = False
    """True if the state has the tag `unhealthy`."""
    waiting: int = 0
    """The number of runs that wait: for a limit of their provider, or because of their workflow."""
    limited_until: str | None = None
    """When the runner tests the limit of its credential, like `2026-03-01 15:00:00 UTC`. None if the limit is not
    reached, or if that time has passed."""

    @property
    def is_healthy(self) -> bool:
        return not self.is_unhealthy_state and self.problem is None

    def __str__(self) -> str:
        text = f"{self.state.replace('_', ' ')}, {self.runs} {'run' if self.runs == 1 else 'runs'} held"
        if self.waiting:
            text += f", {self.waiting} of them waiting"
        if self.limited_until is not None:
            text += f", next attempt at {self.limited_until}"
        return text if self.problem is None else f"{text}; {self.problem}"


class Hanging:
    """A runner that does not answer."""

    is_healthy = False

    def __str__(self) -> str:
        return f"does not answer within {ANSWER_LIMIT_S:g} s"


@asynccontextmanager
async def serve_health(folder: Path, health: Callable[[], Health]) -> AsyncIterator[None]:
    """Answer `fsm-runner health` on a socket in `folder` until the context ends."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(encode_json(health()) + b"\n")
        await writer.drain()

    async with serve_socket(LocalSocket(folder / SOCKET_FILE, "fsm-runner health"), answer):
        yield


async def query_all(paths: Iterable[Path]) -> dict[str, Health | Hanging]:
    """Return the answers of the running runners, by the names of their folders."""
    answers = {path.parent.name: await _query(path) for path in paths}
    return {name: answer for name, answer in answers.items() if answer is not None}


async def _query(path: Path) -> Health | Hanging | None:
    """Return the answer of the runner at this socket; None if no process serves it, or one in another container.

    A runner in another container, which shares the state directory, is asked there.
    """
    try:
        async with asyncio.timeout(ANSWER_LIMIT_S), connected(path, LONGEST_ANSWER_BYTES) as (reader, writer):
            peer_of(writer.get_extra_info("socket"))
            return msgspec.json.decode(await reader.readline(), type=Health)
    except (ConnectionRefusedError, FileNotFoundError, PeerUnknown):
        return None
    except (TimeoutError, OSError, ValueError, msgspec.MsgspecError):
        return Hanging()
