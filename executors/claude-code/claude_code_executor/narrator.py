"""Tells the coordinator, in the events of the protocol, what the program does in a turn."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from claude_agent_sdk import AssistantMessage, ResultMessage, SystemMessage, TextBlock, ToolUseBlock, UserMessage
from claude_agent_sdk.types import ConversationResetMessage, Message, ToolResultBlock

from claude_code_executor.config import Config
from claude_code_executor.diagnosis import Diagnosis
from claude_code_executor.mcp_servers import McpServers, project_file_defect
from claude_code_executor.outcome import refuse_failure, structured_output, usage_of
from claude_code_executor.program import Program
from claude_code_executor.prompt import prompt_of
from fsm_executor import GatewayError, Session
from fsm_executor.turn import Turn

ANSWER_TOOL = "StructuredOutput"
"""What the program has the model answer with, where an answer has a form. It is no tool to whoever asks."""


class Narrator:
    def __init__(self, session: Session, program: Program, config: Config) -> None:
        blueprint = session.invocation.agent_blueprint
        self._session = session
        self._program = program
        self._config = config
        self._has_parameters_schema = bool(blueprint.get("parameters_schema"))
        self._has_output_schema = bool(blueprint.get("output_schema"))
        self._bound_as: str | None = None
        self._diagnosis = Diagnosis()
        self._mcp_servers = McpServers(
            program,
            blueprint.get("mcp_servers") or (),
            required=config.mcp_required,
            note=lambda detail: self._note(status_detail=detail),
        )
        self._cost_usd = 0.0
        self._unsaid_prompt: str | None = None
        self._tools: dict[str, ToolUseBlock] = {}
        """Those that are at work, by their ids."""

    async def carry_out(self, turn: Turn) -> None:
        """Raises `ExecutorError` where the turn fails."""
        prompt = prompt_of(turn.parameters, has_schema=self._has_parameters_schema)
        self._unsaid_prompt = prompt
        await self._mcp_servers.settle()
        self._program.pass_over()
        asked = await self._program.ask(prompt)
        while True:
            message = await self._program.message()
            if isinstance(message, ResultMessage) and _answers(message, asked):
                await self._end(turn, message)
                return
            await self._tell(message)

    async def _tell(self, message: Message) -> None:
        for detail in filter(None, [*self._program.warnings(), self._diagnosis.detail_of(message)]):
            await self._note(status_detail=detail)
        match message:
            case SystemMessage(subtype="init", data={"session_id": str(conversation_id)}):
                await self._begin(conversation_id)
            case AssistantMessage():
                await self._tell_answer(message)
            case UserMessage(content=list() as blocks):
                for block in blocks:
                    if isinstance(block, ToolResultBlock):
                        await self._tell_tool(block)
            case ConversationResetMessage():
                self._cost_usd = 0.0

    async def _begin(self, conversation_id: str) -> None:
        """The program tells its id at the beginning of every turn. What is told before that belongs to no session."""
        if self._bound_as != conversation_id:
            await self._session.bind(conversation_id)
            self._bound_as = conversation_id
            if "project" in self._config.setting_sources and (defect := project_file_defect(Path.cwd())) is not None:
                await self._note(status_detail=defect)
        prompt, self._unsaid_prompt = self._unsaid_prompt, None
        if prompt is not None:
            await self._session.message("user", prompt)

    async def _tell_answer(self, message: AssistantMessage) -> None:
        """An answer that is to be data is told by the result alone; so is an error, by the failure."""
        tools = (block for block in message.content if isinstance(block, ToolUseBlock))
        self._tools |= {tool.id: tool for tool in tools if not (self._has_output_schema and tool.name == ANSWER_TOOL)}
        is_own = message.parent_tool_use_id is None and message.error is None
        text = "".join(block.text for block in message.content if isinstance(block, TextBlock))
        if is_own and text and not self._has_output_schema:
            await self._session.message("assistant", text)

    async def _tell_tool(self, result: ToolResultBlock) -> None:
        tool = self._tools.pop(result.tool_use_id, None)
        if tool is None:
            return
        if result.is_error:
            await self._session.tool(tool.name, tool.input, error=_text(result.content))
        else:
            await self._session.tool(tool.name, tool.input, result.content)

    async def _note(self, **fields: Any) -> None:
        """For the runner's record; a coordinator need not take what it does not know."""
        with contextlib.suppress(GatewayError):
            await self._session.metadata(**fields)

    async def _end(self, turn: Turn, result: ResultMessage) -> None:
        self._tools.clear()
        await self._note(usage=usage_of(result, self._cost_usd))
        self._cost_usd = result.total_cost_usd or self._cost_usd
        refuse_failure(result, self._config, self._diagnosis.cause_of(result))
        if self._has_output_schema:
            await turn.complete(data=structured_output(result))
        else:
            await turn.complete(result.result or "")


def _answers(result: ResultMessage, asked: str) -> bool:
    """Whether it is the result of what was asked. The program has turns of its own, for tasks in the background."""
    answered = {result.user_message_uuid, *(result.user_message_uuids or ())}
    return asked in answered or answered == {None}


def _text(content: str | list[dict[str, Any]] | None) -> str:
    """A tool's result as one text; what is no text is left out."""
    if isinstance(content, list):
        content = "\n".join(block["text"] for block in content if block.get("type") == "text")
    return content or "the tool has failed"
