"""What can go wrong with one call between the runner and the coordinator."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

LOGIN_PAGE = b"<!DOCTYPE html><html><title>Sign in</title><body><form>Who are you?</form></body></html>"


class Answer(msgspec.Struct, frozen=True):
    status: int
    body: bytes = b""
    content_type: str = "application/json"


class Raw(msgspec.Struct, frozen=True):
    """What is written as it stands, be it HTTP or not; then the connection is closed, or reset."""

    content: bytes
    resets: bool = False


Forward = Callable[[], Awaitable[Answer | None]]
"""Lets the coordinator answer; None where it cannot be reached."""


class Kind(msgspec.Struct, frozen=True):
    """One kind of fault: what the runner gets in place of the coordinator's answer; None resets the connection."""

    name: str
    respond: Callable[[Forward], Awaitable[Answer | Raw | None]]
    genuine: bool = False
    """Whether it is the coordinator's answer that the runner gets in the end."""


def rewrite_run(change: Callable[[dict[str, Any]], dict[str, Any]], times: int = 1) -> Kind:
    """The next `times` answers that carry a run, changed as a whole; others pass as they are."""
    left = [times]

    def changed(answer: Answer) -> Answer:
        if not left[0] or b'"run"' not in answer.body:
            return answer
        left[0] -= 1
        return Answer(200, msgspec.json.encode(change(msgspec.json.decode(answer.body))))

    return rewrite(changed)


def instead(name: str, answer: Answer | Raw | None) -> Kind:
    """This answer; the coordinator does not hear of the call."""

    async def respond(_: Forward) -> Answer | Raw | None:
        return answer

    return Kind(name, respond)


HoldKind = Callable[[asyncio.Event], Kind]


def status(code: int, detail: str = "injected") -> Kind:
    """The coordinator does not hear of the call."""
    return instead(f"status {code}", Answer(code, msgspec.json.encode({"detail": detail})))


def html() -> Kind:
    """A proxy's login page, with status 200."""
    return instead("html", Answer(200, LOGIN_PAGE, "text/html; charset=utf-8"))


def broken_json() -> Kind:
    return instead("broken json", Answer(200, b'{"run": {"run_id": "run_'))


def reset() -> Kind:
    """The connection is reset before the coordinator hears of the call."""
    return instead("reset", None)


def lost_answer() -> Kind:
    """The coordinator acts on the call, and then the connection is reset."""

    async def respond(forward: Forward) -> Answer | None:
        await forward()
        return None

    return Kind("lost answer", respond)


def duplicated() -> Kind:
    """The coordinator is sent the call a second time, as by a proxy that has missed its first answer."""

    async def respond(forward: Forward) -> Answer | None:
        await forward()
        return await forward()

    return Kind("duplicated", respond, genuine=True)


def hold(released: asyncio.Event) -> Kind:
    """The coordinator acts on the call at once; its answer is held until `released` is set."""

    async def respond(forward: Forward) -> Answer | None:
        answer = await forward()
        await released.wait()
        return answer

    return Kind("hold", respond, genuine=True)


def hold_request(released: asyncio.Event) -> Kind:
    """The coordinator does not hear of the call before `released` is set."""

    async def respond(forward: Forward) -> Answer | None:
        await released.wait()
        return await forward()

    return Kind("hold request", respond, genuine=True)


def hold_instead(released: asyncio.Event, answer: Answer) -> Kind:
    """This answer, once `released` is set; the coordinator does not hear of the call."""

    async def respond(_: Forward) -> Answer | None:
        await released.wait()
        return answer

    return Kind("hold instead", respond)


def delay(seconds: float) -> Kind:
    """The answer takes so much longer."""

    async def respond(forward: Forward) -> Answer | None:
        answer = await forward()
        await asyncio.sleep(seconds)
        return answer

    return Kind(f"delay {seconds:g} s", respond, genuine=True)


def cut_after(seconds: float) -> Kind:
    """A proxy whose time-out is this long: the coordinator holds the call on, and the runner gets a 504."""

    async def respond(forward: Forward) -> Answer | None:
        forwarding = asyncio.ensure_future(forward())
        try:
            done, _ = await asyncio.wait([forwarding], timeout=seconds)
            return await forwarding if done else Answer(504, b"<html>504 Gateway Time-out</html>", "text/html")
        finally:
            forwarding.cancel()
            await asyncio.wait([forwarding])

    return Kind("cut", respond)


def rewrite(change: Callable[[Answer], Answer]) -> Kind:
    """The coordinator's answer, changed."""

    async def respond(forward: Forward) -> Answer | None:
        answer = await forward()
        return None if answer is None else change(answer)

    return Kind("rewrite", respond, genuine=True)


class Rule:
    """A fault for the next `times` calls whose method and whole path match; None: for all of them."""

    def __init__(self, method: str, path_pattern: str, kind: Kind, times: int | None) -> None:
        self.method = method
        self.path = re.compile(path_pattern)
        self.kind = kind
        self.left = times

    def matches(self, method: str, path: str) -> bool:
        return self.left != 0 and method == self.method and self.path.fullmatch(path) is not None

    def use(self) -> Kind:
        if self.left is not None:
            self.left -= 1
        return self.kind
