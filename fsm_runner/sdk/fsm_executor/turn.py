"""One turn of a session: what is asked, and the answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from fsm_executor.invocation import JsonObject
from fsm_executor.json_text import encode_json

Completion = Callable[[JsonObject, str], Awaitable[None]]
"""Takes the fields of the result event, and the result as text."""


class Turn:
    """`complete` has to be called once, after all that is told of the turn."""

    def __init__(self, parameters: JsonObject, completion: Completion) -> None:
        self.parameters = parameters
        self.completed = False
        self._completion = completion

    @property
    def prompt(self) -> str:
        """The parameter `prompt`; where there is none that is text, all parameters as JSON."""
        prompt = self.parameters.get("prompt")
        return prompt if isinstance(prompt, str) else json.dumps(self.parameters, ensure_ascii=False)

    async def complete(self, text: str | None = None, *, data: dict[str, Any] | None = None) -> None:
        """Tell the result, as text or as data, and then that the turn is done. Raises `GatewayError`."""
        if self.completed:
            raise RuntimeError("the turn is completed already")
        if (text is None) == (data is None):
            raise TypeError("a result has either text or data")
        if not isinstance(text, str | None) or not isinstance(data, dict | None):
            raise TypeError("a result's text is a str, and its data a dict")
        fields = {"result_text": text} if data is None else {"result_data": data}
        await self._completion(fields, encode_json(data) if text is None else text)
        self.completed = True
