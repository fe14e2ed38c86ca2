"""The session and its turns: the API for the code of an executor."""

from __future__ import annotations

import asyncio
import json
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from fsm_executor.clock import EventClock
from fsm_executor.errors import ExecutorError, GatewayError
from fsm_executor.gateway import URL_VARIABLE, Answer, Gateway
from fsm_executor.invocation import Invocation, JsonObject
from fsm_executor.json_text import encode_json
from fsm_executor.limit import LimitReached, Moment, limit_fields, limit_text

ROLES = ("user", "assistant")

Main = Callable[["Session"], Awaitable[None]]
Completion = Callable[[JsonObject, str], Awaitable[None]]
"""Takes the fields of the result event, and the result as text."""
Limitation = Callable[[JsonObject], Awaitable[LimitReached | None]]
"""Takes the metadata field `limit`. Returns the error of this process, if it can get no further turn."""


class Turn:
    """Call `complete` or `limited` once, after all other messages of the turn."""

    def __init__(self, parameters: JsonObject, completion: Completion, limitation: Limitation) -> None:
        self.parameters = parameters
        self.completed = False
        self._completion = completion
        self._limitation = limitation

    @property
    def prompt(self) -> str:
        """The parameter `prompt`, or all parameters as JSON if there is no such text."""
        prompt = self.parameters.get("prompt")
        return prompt if isinstance(prompt, str) else json.dumps(self.parameters, ensure_ascii=False)

    async def complete(self, text: str | None = None, *, data: dict[str, Any] | None = None) -> None:
        """Send the result, as text or as data, and then complete the turn. Raises `GatewayError`."""
        self._check_not_completed()
        if (text is None) == (data is None):
            raise TypeError("a result has either text or data")
        if not isinstance(text, str | None) or not isinstance(data, dict | None):
            raise TypeError("a result's text is a str, and its data a dict")
        fields = {"result_text": text} if data is None else {"result_data": data}
        await self._completion(fields, encode_json(data) if text is None else text)
        self.completed = True

    async def limited(
        self, kind: str, resets_at: Moment | None = None, scope: str = "credential", message: str = ""
    ) -> None:
        """End the turn at a limit of the provider, without a result. The runner continues the session after the reset.

        `kind` is the provider's name of the limit. `resets_at` is a datetime with a time zone, or Unix seconds; None if
        the time is unknown. `scope` is `credential` if the limit concerns all sessions of the runner, or `session`.
        `message` is the provider's text.

        The call returns in a persistent executor, and the next turn continues the session. It raises an
        `ExecutorError`, which fails the run if nothing catches it, in a one-shot executor: the runner continues the
        session in another process. Raises `GatewayError`.
        """
        self._check_not_completed()
        error = await self._limitation(limit_fields(kind, resets_at, scope, message))
        self.completed = True
        if error is not None:
            raise error

    def _check_not_completed(self) -> None:
        if self.completed:
            raise RuntimeError("the turn is already completed")


class TurnNotCompleted(ExecutorError):
    """A turn was left without a call of `Turn.complete` or `Turn.limited`."""

    def __init__(self) -> None:
        super().__init__(
            "the executor left a turn without completing it; end each turn with turn.complete(...) or turn.limited(...)"
        )


class Session:
    """Sends messages in the order of the calls. Each call returns when the gateway has accepted the message.

    Each call raises `GatewayError` if the gateway rejects the message or cannot be reached.
    """

    def __init__(
        self,
        invocation: Invocation,
        write_line: Callable[[str], None],
        clock: EventClock,
        turn_taken: Callable[[], None],
    ) -> None:
        self.invocation = invocation
        self.id = invocation.session_id
        self._write_line = write_line
        self._clock = clock
        self._turn_taken = turn_taken
        self._gateway: Gateway | None = None
        self._turn: Turn | None = None
        self._pending = deque([invocation.parameters])
        self._limit: LimitReached | None = None
        """Set while the last turn is one that ended at a limit."""
        self._input_ended = False
        self._stopped = False
        self._changed = asyncio.Event()

    @property
    def resumed(self) -> bool:
        """Whether an earlier process started the session."""
        return self.invocation.mode == "resume"

    async def turns(self) -> AsyncIterator[Turn]:
        """Yield the turns as they arrive, the first one at once, until the runner ends the session.

        Raises `TurnNotCompleted` if the previous turn has not been completed, and `ExecutorError` if the input ends
        after a turn that ended at a limit, as it does in a one-shot executor.
        """
        while (parameters := await self._next_parameters()) is not None:
            self._turn, self._limit = Turn(parameters, self._complete, self._end_at_limit), None
            yield self._turn

    async def bind(self, executor_session_id: str) -> None:
        """Bind the session to an id of the executor's own. Allowed only during a turn."""
        body = {"session_id": self.id, "executor_session_id": executor_session_id}
        if self.invocation.project_dir is not None:
            body["project_dir"] = self.invocation.project_dir
        await self.gateway.send("POST", "/bind", body)

    async def message(self, role: str, text: str) -> None:
        """Send a message event. `role` is user or assistant."""
        if role not in ROLES:
            raise ValueError(f"a message's role is one of {', '.join(ROLES)}, not {role!r}")
        await self.event({"event_type": "message", "role": role, "content": [{"type": "text", "text": text}]})

    async def tool(self, name: str, tool_input: JsonObject, output: Any = None, error: str | None = None) -> None:
        """Send a tool event. `error` is the reason if the tool failed."""
        fields = {"tool_name": name, "tool_input": tool_input, "tool_output": output, "error": error}
        await self.event({"event_type": "post_tool", **fields})

    async def event(self, fields: JsonObject) -> None:
        """Send any event (section 1.4): `event_type` and the fields of that type. Session and timestamp are added."""
        await self.gateway.send("POST", "/events", {**fields, "session_id": self.id, "timestamp": self._clock.now()})

    async def metadata(self, **fields: Any) -> None:
        """Set fields of the session, such as `last_resumed_at` (see `now`)."""
        await self.gateway.send("PATCH", "/metadata", {**fields, "session_id": self.id})

    async def request(self, method: str, path: str, body: Any = None) -> Answer:
        """Call the coordinator's API (sections 1.1 to 1.3). Return the response, whatever its status."""
        return await self.gateway.request(method, path, body)

    def now(self) -> str:
        """Return a timestamp in the format of event timestamps."""
        return self._clock.now()

    @property
    def gateway(self) -> Gateway:
        """The gateway's client. Raises `GatewayError` if the environment does not name a gateway."""
        if self._gateway is None:
            url = os.environ.get(URL_VARIABLE)
            if not url:
                raise GatewayError(f"{URL_VARIABLE} is not set: it is the URL of the runner's gateway")
            self._gateway = Gateway(url)
        return self._gateway

    def add_turn(self, parameters: JsonObject) -> None:
        self._pending.append(parameters)
        self._changed.set()

    def end_of_input(self) -> None:
        """Make `turns` end after the turns that were added."""
        self._input_ended = True
        self._changed.set()

    def stop(self) -> None:
        """Make `turns` end after the turns that were added, because the runner stops the executor."""
        self._stopped = True
        self._changed.set()

    def close(self) -> None:
        if self._gateway is not None:
            self._gateway.close()

    @property
    def turn_in_progress(self) -> bool:
        """Whether a turn is not completed, including turns that `turns` has not yielded yet."""
        return bool(self._pending) or (self._turn is not None and not self._turn.completed)

    @property
    def limit_reached(self) -> LimitReached | None:
        """The error of a process that ends now, if its last turn ended at a limit and the runner has not stopped it."""
        return None if self._stopped else self._limit

    async def _next_parameters(self) -> JsonObject | None:
        if self._turn is not None and not self._turn.completed:
            raise TurnNotCompleted
        while not self._pending:
            if self._input_ended or self._stopped:
                if (error := self.limit_reached) is not None:
                    raise error
                return None
            self._changed.clear()
            await self._changed.wait()
        if self._turn is not None:
            self._turn_taken()
        return self._pending.popleft()

    async def _complete(self, fields: JsonObject, result: str) -> None:
        await self.event({"event_type": "result", **fields})
        self._write_line(encode_json({"type": "turn_complete", "result": result}))

    async def _end_at_limit(self, limit: JsonObject) -> LimitReached | None:
        await self.metadata(limit=limit)
        self._limit = LimitReached(limit_text(limit))
        if self._input_ended and not self._pending and not self._stopped:
            return self._limit
        self._write_line(encode_json({"type": "turn_complete", "result": "", "limited": True}))
        return None
