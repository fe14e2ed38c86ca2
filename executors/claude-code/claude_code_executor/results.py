"""The results of one turn of the session, which can be several turns of the program."""

from __future__ import annotations

import re

from claude_agent_sdk import AssistantMessage, ResultMessage, SystemMessage, TextBlock, UserMessage
from claude_agent_sdk.types import Message

from claude_code_executor.outcome import TurnFailed
from fsm_executor.invocation import JsonObject

_COUNTED = {
    "input_tokens": "inputTokens",
    "output_tokens": "outputTokens",
    "cache_read_tokens": "cacheReadInputTokens",
    "cache_written_tokens": "cacheCreationInputTokens",
    "cost_usd": "costUSD",
}
"""The runner's names of what is counted, and those of the program."""

COST_DIGITS = 6

STOP_HOOK_FEEDBACK = "Stop hook feedback:"

SETTINGS_TAG = "settings_not_in_effect"
"""Of warnings that have nothing to do with the answer."""

PROGRAM_ITSELF = "<synthetic>"
"""The model of a message that the program has written itself."""

COMMAND_OUTPUT = re.compile(r"<local-command-stdout>(.*)</local-command-stdout>", re.DOTALL)
UNAVAILABLE = "isn't available in this environment."
"""The end of the program's answer to a command that needs a terminal."""

NO_ANSWER = "the turn has ended without an answer"


class TurnResults:
    """`prompt_id`: the id of the prompt. Its own result comes first. Further ones come from the turns that the program
    begins by itself when background work has ended; the last one counts."""

    def __init__(self, prompt_id: str) -> None:
        self._prompt_id = prompt_id
        self._results: list[ResultMessage] = []
        self._refusal: str | None = None
        self._warning: str | None = None
        self._hook_feedback: str | None = None
        self._program_said = ""
        self._command_output = ""
        self.is_answered = False

    def note(self, message: Message) -> None:
        match message:
            case ResultMessage():
                self._results.append(message)
                self.is_answered = self.is_answered or _answers(message, self._prompt_id)
                if message.num_turns:
                    # The model has been asked since.
                    self._refusal = None
            case SystemMessage(subtype="informational", data={"prompt_submit_outcome": {"reason": reason}}):
                self._refusal = str(reason)
            case SystemMessage(subtype="informational", data={"level": "warning", "content": str(content)} as data):
                if data.get("tag") != SETTINGS_TAG:
                    self._warning = content
            case AssistantMessage(model=model, content=[TextBlock(text=text)]) if model == PROGRAM_ITSELF:
                self._program_said = text
            case UserMessage(content=str(text)) if (found := COMMAND_OUTPUT.fullmatch(text)) is not None:
                self._command_output = found[1].strip()
            case UserMessage(content=[TextBlock(text=text)]) if text.startswith(STOP_HOOK_FEEDBACK):
                self._hook_feedback = " ".join(text.split())

    @property
    def last(self) -> ResultMessage:
        """The result that counts. Those of turns in which the model was not asked do not, unless there is no other."""
        of_the_model = [result for result in self._results if result.num_turns]
        return (of_the_model or self._results)[-1]

    @property
    def has_failed(self) -> bool:
        return self.last.is_error or self.last.subtype != "success"

    def usage(self, duration_s: float) -> JsonObject:
        """What all results have used, sub-agents included. `duration_s`: from the prompt to the last result."""
        models = [list(result.model_usage.values()) for result in self._results if result.model_usage is not None]
        counted: JsonObject = {}
        if models:
            used = [model for each in models for model in each]
            counted = {name: sum(model.get(key, 0) for model in used) for name, key in _COUNTED.items()}
            counted["cost_usd"] = round(counted["cost_usd"], COST_DIGITS)
        turns = sum(result.num_turns for result in self._results)
        return {**counted, "duration_s": round(duration_s, 3), "turns": turns}

    def refuse_missing_answer(self) -> None:
        """Raises `TurnFailed` when hooks have kept the model from answering: the program calls that a success."""
        result = self.last
        if self._refusal is not None:
            what = "the turn that follows background work" if result.num_turns else "the prompt"
            raise TurnFailed(f"a UserPromptSubmit hook has blocked {what}: {self._refusal}")
        if result.result or result.structured_output is not None:
            return
        if result.terminal_reason == "hook_stopped":
            raise TurnFailed("a hook has stopped the turn before the model answered")
        if self._warning is not None:
            reason = ". ".join(filter(None, [self._warning.rstrip("."), self._hook_feedback]))
            raise TurnFailed(f"{NO_ANSWER}: {reason}")

    def text(self) -> str:
        """The answer. Raises `TurnFailed` when it is blank: the program calls that a success."""
        result = self.last
        if result.num_turns == 0:
            return self._command_text(result)
        if not result.result or not result.result.strip():
            raise TurnFailed(f"{NO_ANSWER}: the model's last message is blank")
        return result.result

    def _command_text(self, result: ResultMessage) -> str:
        """The answer of a command of the program, such as `/cost`. Raises `TurnFailed` when there is none."""
        text = result.result or self._command_output
        if text and not text.endswith(UNAVAILABLE):
            return text
        said = text or self._program_said
        answer = f"which answers: {said}" if said else "which gives no answer"
        raise TurnFailed(f"the model was not asked, because the prompt is a command of Claude Code, {answer}")


def _answers(result: ResultMessage, prompt_id: str) -> bool:
    """Whether it is the result of the prompt itself."""
    answered = {result.user_message_uuid, *(result.user_message_uuids or ())}
    return prompt_id in answered or (answered == {None} and result.origin is None)
