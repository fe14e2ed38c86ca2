"""Counts what a turn of the session uses: while it runs from the model's answers, and at its end from the results."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from claude_agent_sdk import AssistantMessage, ResultMessage
from claude_agent_sdk.types import Message, StreamEvent

from claude_code_executor.results import PROGRAM_ITSELF
from fsm_executor.invocation import JsonObject

_RESULT_FIELDS = {
    "input_tokens": "inputTokens",
    "output_tokens": "outputTokens",
    "cache_read_tokens": "cacheReadInputTokens",
    "cache_written_tokens": "cacheCreationInputTokens",
    "cost_usd": "costUSD",
}
"""The runner's names of the usage fields, and those of the program's results."""

_ANSWER_FIELDS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_tokens": "cache_read_input_tokens",
    "cache_written_tokens": "cache_creation_input_tokens",
}
"""The runner's names, and those of the Messages API."""

COST_DIGITS = 6


class TurnUsage:
    """The usage since the prompt, sub-agents included.

    The program passes on one message for each content block of an answer, so answers are counted by their ids. The
    output tokens of sub-agents and all costs are known with the next result.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._started_at = clock()
        self._tokens: dict[str, dict[str, int]] = {}
        """The tokens of each answer by its id."""
        self._streamed: str | None = None
        """The id of the answer that arrives in parts. Answers of sub-agents do not."""
        self._answers: set[str] = set()
        self._results: list[ResultMessage] = []

    def record(self, message: Message) -> bool:
        """Return whether the message completes an answer or has costs."""
        match message:
            case StreamEvent(event={"type": "message_start", "message": {"id": str(answer), "usage": dict(usage)}}):
                self._streamed = answer
                self._count(answer, usage)
            case StreamEvent(event={"type": "message_delta", "usage": dict(usage)}) if self._streamed is not None:
                self._count(self._streamed, usage)
                return True
            case AssistantMessage(message_id=str(answer), usage=usage) if message.model != PROGRAM_ITSELF:
                is_new = answer not in self._answers
                self._answers.add(answer)
                self._count(answer, usage or {})
                return is_new and answer != self._streamed
            case ResultMessage():
                self._results.append(message)
                return True
        return False

    def so_far(self) -> JsonObject:
        """Return the usage while the turn runs. No field decreases from one call to the next."""
        counted = {name: sum(each.get(name, 0) for each in self._tokens.values()) for name in _ANSWER_FIELDS}
        known = self._of_results()
        return self._with_turns({**known, **{name: max(value, known.get(name, 0)) for name, value in counted.items()}})

    def total(self) -> JsonObject:
        """Return the usage of the turn that has ended, as its results have it."""
        known = self._of_results()
        return self._with_turns(known) if known else self.so_far()

    def _of_results(self) -> JsonObject:
        models = [list(result.model_usage.values()) for result in self._results if result.model_usage is not None]
        if not models:
            return {}
        used = [model for each in models for model in each]
        counted: JsonObject = {name: sum(model.get(key, 0) for model in used) for name, key in _RESULT_FIELDS.items()}
        counted["cost_usd"] = round(counted["cost_usd"], COST_DIGITS)
        return counted

    def _with_turns(self, counted: JsonObject) -> JsonObject:
        duration_s = round(self._clock() - self._started_at, 3)
        return {**counted, "duration_s": duration_s, "turns": len(self._answers)}

    def _count(self, answer: str, usage: Mapping[str, Any]) -> None:
        """Take over the tokens of the answer. The API repeats them with greater values while it sends the answer."""
        tokens = self._tokens.setdefault(answer, {})
        for name, key in _ANSWER_FIELDS.items():
            value = usage.get(key)
            if isinstance(value, int):
                tokens[name] = max(value, tokens.get(name, 0))
