"""Runs turns, and reports to the coordinator what the program does in them."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from claude_agent_sdk import AssistantMessage, ResultMessage, SystemMessage, TextBlock, ToolUseBlock, UserMessage
from claude_agent_sdk.types import Message, TaskNotificationMessage, ToolResultBlock

from claude_code_executor.config import Config
from claude_code_executor.diagnosis import Diagnosis
from claude_code_executor.limits import Limits
from claude_code_executor.mcp_servers import McpServers, project_file_defect
from claude_code_executor.program import Program
from claude_code_executor.results import TurnFailed, TurnResults
from claude_code_executor.settings_files import ignored_settings
from claude_code_executor.stall_monitor import StallMonitor
from claude_code_executor.usage import TurnUsage
from fsm_executor import GatewayError, Session, Turn
from fsm_executor.invocation import JsonObject

ANSWER_TOOL = "StructuredOutput"
"""The program's own tool for answers that match a schema. It is not reported as a tool call."""

_ENDS = {"failed": "failed", "stopped": "been stopped"}


class EventReporter:
    def __init__(self, session: Session, program: Program, config: Config) -> None:
        blueprint = session.invocation.agent_blueprint
        self._session = session
        self._program = program
        self._config = config
        self._has_parameters_schema = bool(blueprint.get("parameters_schema"))
        self._has_output_schema = bool(blueprint.get("output_schema"))
        self._bound_as: str | None = None
        self._diagnosis = Diagnosis()
        self._limits = Limits()
        self._mcp_servers = McpServers(
            program,
            blueprint.get("mcp_servers") or (),
            required=config.mcp_required,
            report_detail=self._report_detail,
        )
        self._has_had_turn = False
        self._unreported_prompt: str | None = None
        self._tools: dict[str, ToolUseBlock] = {}
        """The running tools by their ids."""
        self._stall_monitor = StallMonitor(
            program,
            config,
            report_detail=self._report_detail,
            tools=lambda: [tool.name for tool in self._tools.values()],
        )

    async def run_turn(self, turn: Turn) -> None:
        """Complete the turn, or end it at a limit of the provider. Raises `ExecutorError` if the turn fails."""
        prompt = build_prompt(turn.parameters, has_schema=self._has_parameters_schema)
        if not prompt.strip():
            raise TurnFailed("the prompt is blank, so there is nothing to ask the model")
        if self._has_had_turn:
            # The runner delivers this after `started`, so that the events below have later timestamps than `run_start`.
            await self._send_metadata(last_resumed_at=self._session.now())
        self._has_had_turn = True
        self._unreported_prompt = prompt
        await self._mcp_servers.wait_connected()
        self._program.discard_pending()
        usage = TurnUsage()
        results = TurnResults(await self._program.send_prompt(prompt))
        while not self._is_over(results):
            message = await self._stall_monitor.next_message()
            if message is not None:
                results.record(message)
                await self._report(message)
                if usage.record(message):
                    await self._send_metadata(usage=usage.so_far())
                await self._stop_at_limit(message)
        await self._finish(turn, results, usage)

    def _is_over(self, results: TurnResults) -> bool:
        """Return whether the turn has its last result. A failure ends it, unless the program continues after it."""
        if not results.is_answered:
            return False
        failed = results.has_failed and self._limits.limit_of(results.last) is None
        return failed or self._program.state.is_done

    async def _stop_at_limit(self, message: Message) -> None:
        """Stop what would meet the limit again: a request that the program repeats later, and background work, whose
        end starts a turn."""
        is_far = self._limits.record(message)
        background = bool(self._program.state.background)
        if is_far and not background:
            await self._program.interrupt()
        elif background and isinstance(message, ResultMessage) and self._limits.limit_of(message) is not None:
            await self._stall_monitor.stop_background("because a limit of the provider is reached")

    async def _report(self, message: Message) -> None:
        for detail in filter(None, [*self._program.warnings(), self._diagnosis.detail_of(message)]):
            await self._report_detail(detail)
        match message:
            case SystemMessage(subtype="init", data={"session_id": str(conversation_id)}):
                await self._report_start(conversation_id)
            case TaskNotificationMessage(status="failed" | "stopped" as status, summary=summary):
                await self._report_detail(f"background work has {_ENDS[status]}: {summary}")
            case AssistantMessage():
                if self._unreported_prompt is not None and message.session_id is not None:
                    # The program answers some commands (such as /cost) itself, without an `init`.
                    await self._report_start(message.session_id)
                await self._report_answer(message)
            case UserMessage(content=list() as blocks):
                for block in blocks:
                    if isinstance(block, ToolResultBlock):
                        await self._report_tool(block)

    async def _report_start(self, conversation_id: str) -> None:
        """Bind the session if necessary, and report the prompt. The program names its id at the start of each turn."""
        if self._bound_as != conversation_id:
            await self._session.bind(conversation_id)
            self._bound_as = conversation_id
            for defect in self._unreported_defects():
                await self._report_detail(defect)
        prompt, self._unreported_prompt = self._unreported_prompt, None
        if prompt is not None:
            await self._session.message("user", prompt)

    def _unreported_defects(self) -> list[str]:
        """Return status details for the files that the program ignores without a warning."""
        sources, project = self._config.setting_sources, Path.cwd()
        servers = project_file_defect(project) if "project" in sources else None
        return [*filter(None, [servers]), *ignored_settings(sources, project, os.environ)]

    async def _report_answer(self, message: AssistantMessage) -> None:
        """Report the model's text. Structured answers are only in the result event, and errors only in the failure."""
        tools = (block for block in message.content if isinstance(block, ToolUseBlock))
        self._tools |= {tool.id: tool for tool in tools if not (self._has_output_schema and tool.name == ANSWER_TOOL)}
        is_own = message.parent_tool_use_id is None and message.error is None
        text = "".join(block.text for block in message.content if isinstance(block, TextBlock))
        if is_own and text and not self._has_output_schema:
            await self._session.message("assistant", text)

    async def _report_tool(self, result: ToolResultBlock) -> None:
        tool = self._tools.pop(result.tool_use_id, None)
        if tool is None:
            return
        if result.is_error:
            await self._session.tool(tool.name, tool.input, error=_text(result.content))
        else:
            await self._session.tool(tool.name, tool.input, result.content)

    async def _send_metadata(self, **fields: Any) -> None:
        """Send metadata that a coordinator may reject without harm."""
        with contextlib.suppress(GatewayError):
            await self._session.metadata(**fields)

    async def _report_detail(self, detail: str) -> None:
        await self._send_metadata(status_detail=detail)

    async def _finish(self, turn: Turn, results: TurnResults, usage: TurnUsage) -> None:
        self._tools.clear()
        result = results.last
        # A turn in which the model was not asked has no `init`.
        await self._report_start(result.session_id)
        await self._mcp_servers.report_late()
        await self._send_metadata(usage=usage.total())
        if (limit := self._limits.limit_of(result)) is not None:
            await turn.limited(limit.kind, limit.resets_at_s, message=limit.message)
            return
        results.raise_failure(self._config, self._diagnosis.cause_of(result))
        results.raise_missing_answer()
        if self._has_output_schema:
            await turn.complete(data=results.structured_output())
        else:
            await turn.complete(results.text())


def build_prompt(parameters: JsonObject, *, has_schema: bool) -> str:
    """Return the parameter `prompt`, or a block of all parameters (protocol.md, section 2.2).

    The block is used if the agent declares its parameters or there is no `prompt`.
    """
    prompt = parameters.get("prompt")
    if not has_schema and isinstance(prompt, str):
        return prompt
    lines = [line for key, value in parameters.items() for line in _input_lines(key, value)]
    return "\n".join(["<inputs>", *lines, "</inputs>"])


def _input_lines(key: str, value: Any) -> list[str]:
    if isinstance(value, str):
        text = value.splitlines()
        return [f"{key}: {value}"] if len(text) < 2 else [f"{key}:", *(f"  {line}" for line in text)]
    return [f"{key}: {json.dumps(value, ensure_ascii=False)}"]


def _text(content: str | list[dict[str, Any]] | None) -> str:
    """Return the text blocks of a failed tool's result as one text."""
    if isinstance(content, list):
        content = "\n".join(block["text"] for block in content if block.get("type") == "text")
    return content or "the tool has failed"
