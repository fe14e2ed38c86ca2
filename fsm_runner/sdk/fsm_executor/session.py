"""A session, as the executor that carries it out has it."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Any

from fsm_executor.clock import EventClock
from fsm_executor.errors import ExecutorError, GatewayError
from fsm_executor.gateway import URL_VARIABLE, Answer, Gateway
from fsm_executor.invocation import Invocation, JsonObject
from fsm_executor.json_text import encode_json
from fsm_executor.turn import Turn

ROLES = ("user", "assistant")


class TurnNotCompleted(ExecutorError):
    """the executor left a turn without completing it; each turn has to be ended with turn.complete(...)"""

    def __init__(self) -> None:
        super().__init__(self.__doc__)


class Session:
    """What is told is told in the order of the calls; each returns when the gateway has accepted it.

    All of them raise `GatewayError` where it has not.
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
        self._waiting = deque([invocation.parameters])
        self._ended = False
        self._changed = asyncio.Event()

    @property
    def resumed(self) -> bool:
        """Whether an earlier process has begun the session."""
        return self.invocation.mode == "resume"

    async def turns(self) -> AsyncIterator[Turn]:
        """The turns as they come, the first at once, until the runner has no more of them.

        Raises `TurnNotCompleted` when the next one is asked for before the last one has been completed.
        """
        while (parameters := await self._next_parameters()) is not None:
            self._turn = Turn(parameters, self._complete)
            yield self._turn

    async def bind(self, executor_session_id: str) -> None:
        """Tell what the session is called here. Only while a turn is in progress."""
        body = {"session_id": self.id, "executor_session_id": executor_session_id}
        if self.invocation.project_dir is not None:
            body["project_dir"] = self.invocation.project_dir
        await self.gateway.tell("POST", "/bind", body)

    async def message(self, role: str, text: str) -> None:
        """`role`: user or assistant."""
        if role not in ROLES:
            raise ValueError(f"a message's role is one of {', '.join(ROLES)}, not {role!r}")
        await self.event({"event_type": "message", "role": role, "content": [{"type": "text", "text": text}]})

    async def tool(self, name: str, tool_input: JsonObject, output: Any = None, error: str | None = None) -> None:
        """A tool has been used. `error`: why it failed."""
        fields = {"tool_name": name, "tool_input": tool_input, "tool_output": output, "error": error}
        await self.event({"event_type": "post_tool", **fields})

    async def event(self, fields: JsonObject) -> None:
        """Any event (section 1.4): `event_type` and what that kind has. Session and timestamp are put in here."""
        await self.gateway.tell("POST", "/events", {**fields, "session_id": self.id, "timestamp": self._clock.now()})

    async def metadata(self, **fields: Any) -> None:
        """Change fields of the session, such as `last_resumed_at` (see `now`)."""
        await self.gateway.tell("PATCH", "/metadata", {**fields, "session_id": self.id})

    async def request(self, method: str, path: str, body: Any = None) -> Answer:
        """Any call of the coordinator's (sections 1.1 to 1.3). Its answer, whatever the status."""
        return await self.gateway.request(method, path, body)

    def now(self) -> str:
        """A timestamp in the form of the events'."""
        return self._clock.now()

    @property
    def gateway(self) -> Gateway:
        """Raises `GatewayError` where the environment does not name one."""
        if self._gateway is None:
            url = os.environ.get(URL_VARIABLE)
            if not url:
                raise GatewayError(f"{URL_VARIABLE} is not set: it is the URL of the runner's gateway")
            self._gateway = Gateway(url)
        return self._gateway

    def add_turn(self, parameters: JsonObject) -> None:
        self._waiting.append(parameters)
        self._changed.set()

    def end(self) -> None:
        """No more turns will be added."""
        self._ended = True
        self._changed.set()

    def close(self) -> None:
        if self._gateway is not None:
            self._gateway.close()

    @property
    def turn_in_progress(self) -> bool:
        """Also when it has not been asked for yet."""
        return bool(self._waiting) or (self._turn is not None and not self._turn.completed)

    async def _next_parameters(self) -> JsonObject | None:
        if self._turn is not None and not self._turn.completed:
            raise TurnNotCompleted
        while not self._waiting:
            if self._ended:
                return None
            self._changed.clear()
            await self._changed.wait()
        if self._turn is not None:
            self._turn_taken()
        return self._waiting.popleft()

    async def _complete(self, fields: JsonObject, result: str) -> None:
        await self.event({"event_type": "result", **fields})
        self._write_line(encode_json({"type": "turn_complete", "result": result}))
