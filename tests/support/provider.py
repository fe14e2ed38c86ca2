"""A provider with limits, and homes whose executor asks it in each turn (`tests/support/executors/limited`).

async with provider() as api:
    api.will(Limits(resets_in_s=3), Says("done"))
    home = limited_home(folder, api, lifecycle="one_shot")
"""

import asyncio
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from fsm_runner.config.profiles import LoadedProfile
from tests.support.command_executor import command_home
from tests.support.serving import serving
from tests.support.watch import Watch

EXECUTOR = Path(__file__).parent / "executors" / "limited"


@dataclass(frozen=True)
class Says:
    """The turn succeeds with this text."""

    text: str = "done"
    usage: tuple[Mapping[str, Any], ...] = ()
    """Each one is reported as metadata, before the result."""


@dataclass(frozen=True)
class Limits:
    """The turn ends at a limit."""

    kind: str = "five_hour"
    resets_in_s: float | None = None
    """From the reply on. None: the time of the reset is unknown."""
    scope: str = "credential"
    message: str = "You've hit your limit"
    ends: Literal["limited", "exits", "exits_idle"] = "limited"
    """`limited`: as the SDK does it; a persistent executor lives on. `exits`: the process fails with exit code 1, also
    if it is persistent. `exits_idle`: a persistent one ends the turn as `limited`, and then exits with 0."""
    raw: Mapping[str, Any] | None = None
    """The metadata field as it is, whatever its form. Needs `ends="exits"`."""
    usage: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Fails:
    """The process fails with exit code 1 and this error, without a limit."""

    error: str = "API Error: 500"
    usage: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Dies:
    """The process dies of SIGKILL."""


@dataclass(frozen=True)
class Held:
    """A reply that is given once the event is set."""

    event: asyncio.Event
    reply: Says | Limits | Fails | Dies


Reply = Says | Limits | Fails | Dies | Held


class Asked(msgspec.Struct, frozen=True):
    """One request: a turn of an executor."""

    session_id: str
    mode: str
    parameters: dict[str, Any]
    turn: int
    """Its number within the process, from 1."""
    pid: int

    @property
    def prompt(self) -> str | None:
        return self.parameters.get("prompt")


class Provider:
    """Gives `replies` in order, and `otherwise` after these."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[Asked] = []
        self.replies: deque[Reply] = deque()
        self.otherwise: Reply = Says()
        self._watch = Watch(lambda: f"{len(self.asked)} requests: {self.asked}")

    def will(self, *replies: Reply) -> None:
        self.replies.extend(replies)

    async def was_asked(self, count: int) -> Asked:
        """Wait for request number `count` and return it."""
        await self._watch.until(lambda: len(self.asked) >= count, f"request {count} of an executor")
        return self.asked[count - 1]

    def reply_to(self, asked: Asked) -> Reply:
        return self.replies.popleft() if self.replies else self.otherwise

    async def answer(self, request: Request) -> JSONResponse:
        self.asked.append(msgspec.json.decode(await request.body(), type=Asked))
        reply = self.reply_to(self.asked[-1])
        self._watch.changed()
        if isinstance(reply, Held):
            await reply.event.wait()
            reply = reply.reply
        nothing = {"usage": [], "dies": False, "error": None, "limit": None}
        match reply:
            case Says(text, usage):
                return JSONResponse({**nothing, "usage": usage, "text": text})
            case Limits():
                limit = reply.raw if reply.raw is not None else _limit(reply)
                return JSONResponse({**nothing, "usage": reply.usage, "limit": limit, "ends": reply.ends})
            case Fails(error, usage):
                return JSONResponse({**nothing, "usage": usage, "error": error})
            case Dies():
                return JSONResponse({**nothing, "dies": True})


def _limit(reply: Limits) -> dict[str, Any]:
    """Return the limit for the SDK; `resets_at` is in Unix seconds, unless the executor passes it on itself."""
    at_s = None if reply.resets_in_s is None else time.time() + reply.resets_in_s
    moment = at_s if reply.ends != "exits" or at_s is None else _iso(at_s)
    return {"kind": reply.kind, "resets_at": moment, "scope": reply.scope, "message": reply.message}


def _iso(at_s: float) -> str:
    seconds, fraction = divmod(at_s, 1)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(fraction * 1e6):06}+00:00"


@asynccontextmanager
async def provider(api: Provider | None = None) -> AsyncIterator[Provider]:
    """`api`: one that replies differently."""
    api = api or Provider()
    async with serving(Starlette(routes=[Route("/", api.answer, methods=["POST"])])) as url:
        api.url = url
        yield api


def limited_home(folder: Path, api: Provider, *, binds_late: bool = False, **profile_fields: Any) -> LoadedProfile:
    """Write a home with the profile and the agent `scripted`, persistent unless the fields say otherwise."""
    _, body = EXECUTOR.read_text().split("\n", 1)
    config = {"url": api.url, "binds_late": binds_late}
    # Without site-packages it starts quickly.
    return command_home(folder, f"#!{sys.executable} -sS\n{body}", config=config, **profile_fields)
