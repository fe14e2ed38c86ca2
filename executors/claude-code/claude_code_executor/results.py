"""The results of one turn of the session, which can comprise several turns of the program."""

from __future__ import annotations

import re

from claude_agent_sdk import AssistantMessage, ResultMessage, SystemMessage, TextBlock, UserMessage
from claude_agent_sdk.types import Message

from claude_code_executor.config import Config
from fsm_executor import ExecutorError
from fsm_executor.invocation import JsonObject

STOP_HOOK_FEEDBACK = "Stop hook feedback:"

SETTINGS_TAG = "settings_not_in_effect"
"""The tag of warnings that do not concern the answer."""

PROGRAM_ITSELF = "<synthetic>"
"""The model name of messages that the program wrote itself."""

COMMAND_OUTPUT = re.compile(r"<local-command-stdout>(.*)</local-command-stdout>", re.DOTALL)
UNAVAILABLE = "isn't available in this environment."
"""The end of the program's answer to a command that needs a terminal."""

NO_ANSWER = "the turn has ended without an answer"


class TurnFailed(ExecutorError):
    """The turn ended without an answer."""


class TurnResults:
    """Collects the results of a turn. The last one counts.

    `prompt_id` is the id of the prompt. The result of the prompt comes first. Further results come from turns that the
    program starts by itself when background work ends.
    """

    def __init__(self, prompt_id: str) -> None:
        self._prompt_id = prompt_id
        self._results: list[ResultMessage] = []
        self._refusal: str | None = None
        self._warning: str | None = None
        self._hook_feedback: str | None = None
        self._program_text = ""
        self._command_output = ""
        self.is_answered = False

    def record(self, message: Message) -> None:
        match message:
            case ResultMessage():
                self._results.append(message)
                self.is_answered = self.is_answered or _answers(message, self._prompt_id)
                if message.num_turns:
                    # The model was asked after the refusal.
                    self._refusal = None
            case SystemMessage(subtype="informational", data={"prompt_submit_outcome": {"reason": reason}}):
                self._refusal = str(reason)
            case SystemMessage(subtype="informational", data={"level": "warning", "content": str(content)} as data):
                if data.get("tag") != SETTINGS_TAG:
                    self._warning = content
            case AssistantMessage(model=model, content=[TextBlock(text=text)]) if model == PROGRAM_ITSELF:
                self._program_text = text
            case UserMessage(content=str(text)) if (found := COMMAND_OUTPUT.fullmatch(text)) is not None:
                self._command_output = found[1].strip()
            case UserMessage(content=[TextBlock(text=text)]) if text.startswith(STOP_HOOK_FEEDBACK):
                self._hook_feedback = " ".join(text.split())

    @property
    def last(self) -> ResultMessage:
        """The last result of a turn in which the model was asked, or else the last one of all."""
        of_the_model = [result for result in self._results if result.num_turns]
        return (of_the_model or self._results)[-1]

    @property
    def has_failed(self) -> bool:
        """Whether the last result is an error. API errors have the subtype `success`."""
        return self.last.is_error or self.last.subtype != "success"

    def raise_failure(self, config: Config, cause: str) -> None:
        """Raise `TurnFailed` if the last result is an error. `cause` supplements the result's own text."""
        if self.has_failed:
            raise TurnFailed(_failure_text(self.last, config) + cause)

    def raise_missing_answer(self) -> None:
        """Raise `TurnFailed` if hooks kept the model from answering, which the program reports as success."""
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

    def structured_output(self) -> JsonObject:
        """Return the answer as data. Raises `TurnFailed` if there is none, which the program reports as success."""
        result = self.last
        if not isinstance(result.structured_output, dict):
            text = f"; it answered: {result.result}" if result.result else ""
            raise TurnFailed(f"the model has not answered with an object that matches the agent's output_schema{text}")
        return result.structured_output

    def text(self) -> str:
        """Return the answer as text. Raises `TurnFailed` if it is blank, which the program reports as success."""
        result = self.last
        if result.num_turns == 0:
            return self._command_text(result)
        if not result.result or not result.result.strip():
            raise TurnFailed(f"{NO_ANSWER}: the model's last message is blank")
        return result.result

    def _command_text(self, result: ResultMessage) -> str:
        """Return the output of a command of the program, such as `/cost`. Raises `TurnFailed` if there is none."""
        text = result.result or self._command_output
        if text and not text.endswith(UNAVAILABLE):
            return text
        explanation = text or self._program_text
        answer = f"which answers: {explanation}" if explanation else "which gives no answer"
        raise TurnFailed(f"the model was not asked, because the prompt is a command of Claude Code, {answer}")


def _failure_text(result: ResultMessage, config: Config) -> str:
    match result.subtype:
        case "error_max_turns":
            return f"the turn was not complete after {config.max_turns} answers of the model (max_turns)"
        case "error_max_budget_usd":
            return f"the budget of {config.max_budget_usd} USD is used up (max_budget_usd)"
        case "error_max_structured_output_retries":
            return "the model has not answered in the form of the agent's output_schema, despite all retries"
        case _:
            return result.result or "; ".join(result.errors or ()) or f"Claude Code ended the turn: {result.subtype}"


def _answers(result: ResultMessage, prompt_id: str) -> bool:
    """Return whether this is the result of the prompt itself."""
    answered = {result.user_message_uuid, *(result.user_message_uuids or ())}
    return prompt_id in answered or (answered == {None} and result.origin is None)
