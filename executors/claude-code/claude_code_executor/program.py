"""The running Claude Code process: its messages and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import uuid
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from claude_agent_sdk import (
    ClaudeAgentOptions,
    ClaudeSDKClient,
    CLIConnectionError,
    ProcessError,
    ResultError,
    ResultMessage,
)
from claude_agent_sdk._internal.message_parser import parse_message  # the SDK is pinned to one version
from claude_agent_sdk.types import McpServerStatus, Message

from claude_code_executor.config import Config
from claude_code_executor.environment import CONFIG_FOLDER, config_folder
from claude_code_executor.options import build_options
from claude_code_executor.program_state import ProgramState
from fsm_executor import ExecutorError, Invocation

INTERRUPT_S = 1.0
"""The time limit for the program to handle an interrupt. The runner sends SIGTERM 5 s after its shutdown message, and
SIGKILL 5 s after that."""

STDERR_LINES = 20

IGNORED_SETTING = "Ignoring "
"""The beginning of the program's warnings about ignored settings, such as permissions of a project without trust."""

NO_CONVERSATION = re.compile(r"No conversation found with session ID: ([\w-]+)")

# The SDK both logs and raises its errors. Without a handler, Python would print them on stderr before the run's error.
logging.getLogger("claude_agent_sdk").addHandler(logging.NullHandler())


class ProgramEnded(ExecutorError):
    """Claude Code has exited, or could not be started."""


class Client(ClaudeSDKClient):
    """The SDK's client, whose results have the usage since the previous result in `model_usage`.

    The SDK puts the totals of the conversation there. These continue when another process resumes the conversation,
    so that process cannot derive its own share.
    """

    async def receive_messages(self) -> AsyncIterator[Message]:
        if self._query is None:
            raise CLIConnectionError("Not connected")
        async for data in self._query.receive_messages():
            message = parse_message(data)
            if isinstance(message, ResultMessage):
                message.model_usage = data.get("model_usage_since_last_result")
            if message is not None:
                yield message


class Program:
    """A connected Claude Code process."""

    def __init__(self, client: Client, stderr: deque[str]) -> None:
        self.state = ProgramState()
        """Reflects the messages that were returned or discarded."""
        self._client = client
        self._stderr = stderr
        self._reported_warnings: set[str] = set()
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue()
        """None marks the end."""
        self._reader = asyncio.create_task(self._read(), name="messages of Claude Code")
        self._fault: Exception | None = None
        """The SDK raises exceptions of its own and plain `Exception`."""

    async def send_prompt(self, prompt: str) -> str:
        """Start a turn, and return the id by which its result is recognised. Raises `ProgramEnded`."""
        message_id = str(uuid.uuid4())
        content = {"type": "user", "uuid": message_id, "message": {"role": "user", "content": prompt}}

        async def messages() -> AsyncIterator[dict[str, object]]:
            yield {**content, "parent_tool_use_id": None}

        try:
            await self._client.query(messages())
        except Exception as fault:
            self._fault = self._fault or fault
            raise self.end_error() from fault
        self.state.record_prompt()
        return message_id

    async def next_message(self) -> Message:
        """Raises `ProgramEnded`."""
        message = await self._messages.get()
        if message is None:
            raise self.end_error()
        self.state.record(message)
        return message

    async def mcp_servers(self) -> list[McpServerStatus]:
        """Return the program's MCP servers and their states. Raises `ProgramEnded`."""
        try:
            return (await self._client.get_mcp_status())["mcpServers"]
        except Exception as fault:
            self._fault = self._fault or fault
            raise self.end_error() from fault

    def warnings(self) -> list[str]:
        """Return lines of stderr about ignored settings that were not returned before."""
        new = [
            line for line in self._stderr if line.startswith(IGNORED_SETTING) and line not in self._reported_warnings
        ]
        self._reported_warnings.update(new)
        return new

    async def ended(self) -> None:
        """Wait until the program has exited or closed its output."""
        await asyncio.wait({self._reader})

    def end_error(self) -> ProgramEnded:
        return _end_error(self._fault, self._stderr)

    def discard_pending(self) -> None:
        """Discard the messages since the last turn; they are about what the program does by itself."""
        while not self._messages.empty() and not self._reader.done():
            if (message := self._messages.get_nowait()) is not None:
                self.state.record(message)

    async def interrupt(self) -> None:
        """Abort the turn and the processes of its tools."""
        with contextlib.suppress(Exception):  # it has exited or does not respond; the caller ends it anyway
            async with asyncio.timeout(INTERRUPT_S):
                await self._client.interrupt()

    async def stop_background(self) -> None:
        """End the background tasks. Returns when the program has answered, after `INTERRUPT_S` at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(INTERRUPT_S):
                for task_id in list(self.state.background):
                    with contextlib.suppress(Exception):  # the task or the program has ended
                        await self._client.stop_task(task_id)

    async def aclose(self) -> None:
        self._reader.cancel()
        await asyncio.wait({self._reader})

    async def _read(self) -> None:
        try:
            async for message in self._client.receive_messages():
                self._messages.put_nowait(message)
        except Exception as fault:  # noqa: BLE001 - `end_error` passes it to the task that waits for a message
            self._fault = fault
        finally:
            self._messages.put_nowait(None)


@asynccontextmanager
async def running_program(invocation: Invocation, config: Config, resume: str | None) -> AsyncIterator[Program]:
    """Start the program, and end it when the block is left, after an interrupt if the block raised an exception.

    Raises `ProgramEnded` if the program cannot be started.
    """
    stderr: deque[str] = deque(maxlen=STDERR_LINES)
    with TemporaryDirectory(prefix="claude-code-") as folder:
        options = build_options(invocation, config, resume, Path(folder), stderr.append)
        client = await _connect(options, stderr)
    # The program has read the folder. Removing it now leaves no credentials behind, however this process ends.
    program = Program(client, stderr)
    try:
        yield program
    except BaseException:
        # A turn may be in progress. Without the interrupt its requests and tools continue until the program ends.
        await program.interrupt()
        raise
    finally:
        # When its input is closed, the program waits for its background tasks before it exits.
        program.discard_pending()
        await program.stop_background()
        await program.aclose()
        await client.disconnect()


async def _connect(options: ClaudeAgentOptions, stderr: deque[str]) -> Client:
    client = Client(options)
    try:
        await client.connect()
    except Exception as fault:
        raise _end_error(fault, stderr) from fault
    return client


def _end_error(fault: Exception | None, stderr: deque[str]) -> ProgramEnded:
    """Return an error that says how the program ended, with the last lines of its stderr."""
    reason = _exit_text(fault)
    output = "\n".join(stderr).strip()
    if (found := NO_CONVERSATION.search(f"{reason}\n{output}")) is not None:
        return ProgramEnded(
            f"Claude Code cannot resume the conversation {found[1]}: there is no transcript of it for the project "
            f"{Path.cwd()} in {config_folder(os.environ)} ({CONFIG_FOLDER}); keep that folder on a lasting "
            "volume, or start a new session"
        )
    tail = f"; the end of its stderr:\n{output}" if output and output not in reason else ""
    return ProgramEnded(f"Claude Code has ended: {reason}{tail}")


def _exit_text(fault: Exception | None) -> str:
    if fault is None:
        return "it has closed its output"
    if not isinstance(fault, ProcessError) or isinstance(fault, ResultError) or fault.exit_code is None:
        return str(fault) or type(fault).__name__
    if fault.exit_code >= 0:
        return f"exit code {fault.exit_code}"
    killed = f"it was killed by {_signal_name(-fault.exit_code)}"
    return f"{killed}; the system does that when memory runs out" if fault.exit_code == -signal.SIGKILL else killed


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
