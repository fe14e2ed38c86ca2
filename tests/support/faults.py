"""Faults of single calls between the runner and the coordinator."""

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
    """Bytes that are sent unchanged, valid HTTP or not; then the connection is closed or reset."""

    content: bytes
    resets: bool = False


Forward = Callable[[], Awaitable[Answer | None]]
"""Forwards the call. None: the coordinator cannot be reached."""


class Kind(msgspec.Struct, frozen=True):
    """A kind of fault: it returns the runner's response; None resets the connection."""

    name: str
    respond: Callable[[Forward], Awaitable[Answer | Raw | None]]
    genuine: bool = False
    """Whether the runner receives the coordinator's response in the end."""


def rewrite_run(change: Callable[[dict[str, Any]], dict[str, Any]], times: int = 1) -> Kind:
    """Change the next `times` responses that contain a run."""
    left = [times]

    def changed(answer: Answer) -> Answer:
        if not left[0] or b'"run"' not in answer.body:
            return answer
        left[0] -= 1
        return Answer(200, msgspec.json.encode(change(msgspec.json.decode(answer.body))))

    return rewrite(changed)


def instead(name: str, answer: Answer | Raw | None) -> Kind:
    """Respond with this; the coordinator does not receive the call."""

    async def respond(_: Forward) -> Answer | Raw | None:
        return answer

    return Kind(name, respond)


HoldKind = Callable[[asyncio.Event], Kind]


def status(code: int, detail: str = "injected") -> Kind:
    """Respond with this status; the coordinator does not receive the call."""
    return instead(f"status {code}", Answer(code, msgspec.json.encode({"detail": detail})))


def html() -> Kind:
    """Respond with the login page of a proxy and status 200."""
    return instead("html", Answer(200, LOGIN_PAGE, "text/html; charset=utf-8"))


def broken_json() -> Kind:
    return instead("broken json", Answer(200, b'{"run": {"run_id": "run_'))


def reset() -> Kind:
    """Reset the connection before the coordinator receives the call."""
    return instead("reset", None)


def lost_answer() -> Kind:
    """Reset the connection after the coordinator has acted on the call."""

    async def respond(forward: Forward) -> Answer | None:
        await forward()
        return None

    return Kind("lost answer", respond)


def duplicated() -> Kind:
    """Send the call twice, as a proxy does that has lost the first response."""

    async def respond(forward: Forward) -> Answer | None:
        await forward()
        return await forward()

    return Kind("duplicated", respond, genuine=True)


def hold(released: asyncio.Event) -> Kind:
    """Hold the response until `released` is set; the coordinator acts at once."""

    async def respond(forward: Forward) -> Answer | None:
        answer = await forward()
        await released.wait()
        return answer

    return Kind("hold", respond, genuine=True)


def hold_request(released: asyncio.Event) -> Kind:
    """Hold the call itself until `released` is set."""

    async def respond(forward: Forward) -> Answer | None:
        await released.wait()
        return await forward()

    return Kind("hold request", respond, genuine=True)


def hold_instead(released: asyncio.Event, answer: Answer) -> Kind:
    """Respond with this once `released` is set; the coordinator does not receive the call."""

    async def respond(_: Forward) -> Answer | None:
        await released.wait()
        return answer

    return Kind("hold instead", respond)


def delay(seconds: float) -> Kind:
    """Delay the response by this time."""

    async def respond(forward: Forward) -> Answer | None:
        answer = await forward()
        await asyncio.sleep(seconds)
        return answer

    return Kind(f"delay {seconds:g} s", respond, genuine=True)


def cut_after(seconds: float) -> Kind:
    """Respond with 504 after this time, as a proxy does; the coordinator still holds the call."""

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
    """Change the coordinator's response."""

    async def respond(forward: Forward) -> Answer | None:
        answer = await forward()
        return None if answer is None else change(answer)

    return Kind("rewrite", respond, genuine=True)


class Rule:
    """A fault for the next `times` calls whose method and whole path match. None: for all of them."""

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
