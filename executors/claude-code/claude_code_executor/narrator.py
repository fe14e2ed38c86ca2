"""Tells the coordinator, in the events of the protocol, what the program does in a turn."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any

from claude_agent_sdk import AssistantMessage, SystemMessage, TextBlock, ToolUseBlock, UserMessage
from claude_agent_sdk.types import Message, TaskNotificationMessage, ToolResultBlock

from claude_code_executor.config import Config
from claude_code_executor.diagnosis import Diagnosis
from claude_code_executor.mcp_servers import McpServers, project_file_defect
from claude_code_executor.outcome import TurnFailed, refuse_failure, structured_output
from claude_code_executor.program import Program
from claude_code_executor.prompt import prompt_of
from claude_code_executor.results import TurnResults
from claude_code_executor.settings_files import ignored_settings
from claude_code_executor.waiting import Waiting
from fsm_executor import GatewayError, Session
from fsm_executor.turn import Turn

ANSWER_TOOL = "StructuredOutput"
"""What the program has the model answer with, where an answer has a form. It is no tool to whoever asks."""

_ENDS = {"failed": "failed", "stopped": "been stopped"}


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
            program, blueprint.get("mcp_servers") or (), required=config.mcp_required, note=self._note_detail
        )
        self._has_had_turn = False
        self._unsaid_prompt: str | None = None
        self._tools: dict[str, ToolUseBlock] = {}
        """Those that are at work, by their ids."""
        self._waiting = Waiting(
            program,
            config,
            note=self._note_detail,
            tools=lambda: [tool.name for tool in self._tools.values()],
        )

    async def carry_out(self, turn: Turn) -> None:
        """Raises `ExecutorError` where the turn fails."""
        prompt = prompt_of(turn.parameters, has_schema=self._has_parameters_schema)
        if not prompt.strip():
            raise TurnFailed("the prompt is blank, so there is nothing to ask the model")
        if self._has_had_turn:
            # Delivered after the runner's report of the turn's start: what follows has later timestamps than that.
            await self._note(last_resumed_at=self._session.now())
        self._has_had_turn = True
        self._unsaid_prompt = prompt
        await self._mcp_servers.settle()
        self._program.pass_over()
        began_at = time.monotonic()
        results = TurnResults(await self._program.ask(prompt))
        while not (results.is_answered and (results.has_failed or self._program.activity.is_over)):
            message = await self._waiting.message()
            if message is not None:
                results.note(message)
                await self._tell(message)
        await self._end(turn, results, time.monotonic() - began_at)

    async def _tell(self, message: Message) -> None:
        for detail in filter(None, [*self._program.warnings(), self._diagnosis.detail_of(message)]):
            await self._note_detail(detail)
        match message:
            case SystemMessage(subtype="init", data={"session_id": str(conversation_id)}):
                await self._begin(conversation_id)
            case TaskNotificationMessage(status="failed" | "stopped" as status, summary=summary):
                await self._note_detail(f"background work has {_ENDS[status]}: {summary}")
            case AssistantMessage():
                if self._unsaid_prompt is not None and message.session_id is not None:
                    # The program answers some commands (such as /cost) itself, without an `init`.
                    await self._begin(message.session_id)
                await self._tell_answer(message)
            case UserMessage(content=list() as blocks):
                for block in blocks:
                    if isinstance(block, ToolResultBlock):
                        await self._tell_tool(block)

    async def _begin(self, conversation_id: str) -> None:
        """The program tells its id at the beginning of every turn. What is told before that belongs to no session."""
        if self._bound_as != conversation_id:
            await self._session.bind(conversation_id)
            self._bound_as = conversation_id
            for defect in self._silent_defects():
                await self._note_detail(defect)
        prompt, self._unsaid_prompt = self._unsaid_prompt, None
        if prompt is not None:
            await self._session.message("user", prompt)

    def _silent_defects(self) -> list[str]:
        """Status details for files that the program ignores without a word."""
        sources, project = self._config.setting_sources, Path.cwd()
        servers = project_file_defect(project) if "project" in sources else None
        return [*filter(None, [servers]), *ignored_settings(sources, project, os.environ)]

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

    async def _note_detail(self, detail: str) -> None:
        await self._note(status_detail=detail)

    async def _end(self, turn: Turn, results: TurnResults, duration_s: float) -> None:
        self._tools.clear()
        result = results.last
        # A turn in which the model was not asked has no `init`.
        await self._begin(result.session_id)
        await self._mcp_servers.report_late()
        await self._note(usage=results.usage(duration_s))
        refuse_failure(result, self._config, self._diagnosis.cause_of(result))
        results.refuse_missing_answer()
        if self._has_output_schema:
            await turn.complete(data=structured_output(result))
        else:
            await turn.complete(results.text())


def _text(content: str | list[dict[str, Any]] | None) -> str:
    """A tool's result as one text; what is no text is left out."""
    if isinstance(content, list):
        content = "\n".join(block["text"] for block in content if block.get("type") == "text")
    return content or "the tool has failed"
