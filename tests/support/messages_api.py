"""A local server that imitates the streaming Messages API for the real Claude Code program."""

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.support.serving import serving
from tests.support.watch import Watch

MODEL = "claude-test"
INPUT_TOKENS, OUTPUT_TOKENS = 120, 30
"""The usage in each response."""
CHUNK_CHARS = 100_000
"""The text in one streamed event."""


@dataclass(frozen=True)
class Says:
    """Text of the model, which ends its turn."""

    text: str
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of the HTTP response."""


@dataclass(frozen=True)
class Calls:
    """A tool call of the model."""

    tool: str
    tool_input: Mapping[str, Any]
    text: str = ""
    """Text before the call."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers of the HTTP response."""


@dataclass(frozen=True)
class Fails:
    """An error of the API."""

    status: int
    kind: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)


def reached_limit(resets_at: object = None, kind: str = "five_hour", **more: str) -> Fails:
    """Return the API's response when a usage limit of a subscription is reached."""
    return Fails(429, "rate_limit_error", "slow down", limit_headers("rejected", resets_at, kind, **more))


def limit_headers(status: str, resets_at: object = None, kind: str = "five_hour", **more: str) -> dict[str, str]:
    """Return the API's headers about the usage of a subscription. `resets_at` is in Unix seconds."""
    reset = {} if resets_at is None else {"reset": str(resets_at)}
    known = {"status": status, "representative-claim": kind, **reset, **more}
    return {f"anthropic-ratelimit-unified-{name.replace('_', '-')}": value for name, value in known.items()}


class Hangs:
    """No response until the server ends or the program disconnects."""


@dataclass(frozen=True)
class Held:
    """A reply that is given once the event is set."""

    event: asyncio.Event
    reply: Says | Calls | Fails


Reply = Says | Calls | Fails | Hangs | Held
AGENT_HEADER = "x-claude-code-agent-id"
"""Marks the requests of sub-agents."""


class Asked(msgspec.Struct, frozen=True):
    """One request."""

    headers: dict[str, str]
    body: dict[str, Any]
    asked_at_s: float
    """Unix time."""

    @property
    def messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = self.body["messages"]
        return messages

    @property
    def prompts(self) -> list[str]:
        """Return the text of the user, without reminders of the program."""
        blocks = (block for each in self.messages if each["role"] == "user" for block in _blocks(each))
        texts = [block["text"] for block in blocks if block["type"] == "text"]
        return [text for text in texts if not text.startswith("<system-reminder>")]

    @property
    def tool_results(self) -> list[dict[str, Any]]:
        blocks = (block for each in self.messages if each["role"] == "user" for block in _blocks(each))
        return [block for block in blocks if block["type"] == "tool_result"]

    @property
    def tools(self) -> set[str]:
        return {tool["name"] for tool in self.body.get("tools", ())}

    @property
    def system(self) -> str:
        system = self.body.get("system", "")
        return system if isinstance(system, str) else "\n".join(block["text"] for block in system)


def _blocks(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


class MessagesApi:
    """Sends `replies` in order, to sub-agents those in `subagents`, and `otherwise` after these."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[Asked] = []
        self.replies: deque[Reply] = deque()
        self.subagents: deque[Reply] = deque()
        self.otherwise: Reply = Says("ok")
        self.ended = asyncio.Event()
        self._numbers = itertools.count(1)
        self._watch = Watch(lambda: f"{len(self.asked)} requests")

    def will(self, *replies: Reply) -> None:
        self.replies.extend(replies)

    async def was_asked(self, count: int) -> Asked:
        """Wait for request number `count` and return it."""
        await self._watch.until(lambda: len(self.asked) >= count, f"request {count} of the program")
        return self.asked[count - 1]

    async def answer(self, request: Request) -> Response:
        body = msgspec.json.decode(await request.body())
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.asked.append(Asked(headers, body, time.time()))
        replies = self.subagents if AGENT_HEADER in request.headers else self.replies
        reply = replies.popleft() if replies else self.otherwise
        self._watch.changed()
        if isinstance(reply, Held):
            await reply.event.wait()
            reply = reply.reply
        match reply:
            case Says() | Calls():
                events = self._events(reply, body.get("model", MODEL))
                return StreamingResponse(_streamed(events), headers=dict(reply.headers), media_type="text/event-stream")
            case Fails(status, kind, message, more):
                error = {"type": "error", "error": {"type": kind, "message": message}}
                return JSONResponse(error, status_code=status, headers=dict(more))
            case Hangs():
                await self.ended.wait()
                return Response(status_code=503)

    def _events(self, reply: Says | Calls, model: str) -> list[dict[str, Any]]:
        number = next(self._numbers)
        usage = {"input_tokens": INPUT_TOKENS, "output_tokens": 1}
        message = {"id": f"msg_{number}", "type": "message", "role": "assistant", "model": model, "content": []}
        begun = {**message, "stop_reason": None, "stop_sequence": None, "usage": usage}
        events: list[dict[str, Any]] = [{"type": "message_start", "message": begun}]
        index = 0
        if reply.text or isinstance(reply, Says):
            chunks = [reply.text[at : at + CHUNK_CHARS] for at in range(0, len(reply.text), CHUNK_CHARS)]
            deltas = [{"type": "text_delta", "text": chunk} for chunk in chunks]
            events += _block(index, {"type": "text", "text": ""}, deltas)
            index += 1
        if isinstance(reply, Calls):
            start = {"type": "tool_use", "id": f"toolu_{number}", "name": reply.tool, "input": {}}
            text = msgspec.json.encode(reply.tool_input).decode()
            events += _block(index, start, [{"type": "input_json_delta", "partial_json": text}])
        reason = "tool_use" if isinstance(reply, Calls) else "end_turn"
        delta = {"stop_reason": reason, "stop_sequence": None}
        events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": OUTPUT_TOKENS}})
        events.append({"type": "message_stop"})
        return events


def _block(index: int, start: dict[str, Any], deltas: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


async def _streamed(events: list[dict[str, Any]]) -> AsyncIterator[bytes]:
    for event in events:
        yield b"event: %b\ndata: %b\n\n" % (event["type"].encode(), msgspec.json.encode(event))


@asynccontextmanager
async def messages_api() -> AsyncIterator[MessagesApi]:
    api = MessagesApi()
    async with serving(Starlette(routes=[Route("/v1/messages", api.answer, methods=["POST"])])) as url:
        api.url = url
        try:
            yield api
        finally:
            api.ended.set()
