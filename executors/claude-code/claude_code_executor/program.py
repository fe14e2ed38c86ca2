"""The running program: its messages as they come, and its end."""

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

from claude_agent_sdk import ClaudeAgentOptions, ProcessError, ResultError
from claude_agent_sdk.types import McpServerStatus, Message

from claude_code_executor.activity import Activity
from claude_code_executor.client import Client
from claude_code_executor.config import Config
from claude_code_executor.options import options_of
from claude_code_executor.surroundings import CONFIG_FOLDER, config_folder
from fsm_executor import ExecutorError, Invocation

INTERRUPT_S = 1.0
"""For the program to hear that the turn is given up. The runner sends SIGTERM 5 s after its shutdown, and SIGKILL 5 s
after that."""

KEPT_STDERR_LINES = 20

IGNORED_SETTING = "Ignoring "
"""How the program begins such a warning. It ignores, for example, what a project that is not trusted allows."""

NO_CONVERSATION = re.compile(r"No conversation found with session ID: ([\w-]+)")

# The SDK raises the faults that it logs. Without a handler Python prints them on stderr, before the run's error.
logging.getLogger("claude_agent_sdk").addHandler(logging.NullHandler())


class ProgramEnded(ExecutorError):
    """Claude Code is gone, or was never there."""


class Program:
    """Claude Code, connected."""

    def __init__(self, client: Client, stderr: deque[str]) -> None:
        self.activity = Activity()
        """As of the messages that have been taken."""
        self._client = client
        self._stderr = stderr
        self._warned: set[str] = set()
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue()
        """None: there will be no more."""
        self._reading = asyncio.create_task(self._read(), name="messages of Claude Code")
        self._fault: Exception | None = None
        """The SDK has classes for its own faults, and raises bare ones too."""

    async def ask(self, prompt: str) -> str:
        """Begin a turn; the id by which its result is known. Raises `ProgramEnded`."""
        message_id = str(uuid.uuid4())
        content = {"type": "user", "uuid": message_id, "message": {"role": "user", "content": prompt}}

        async def messages() -> AsyncIterator[dict[str, object]]:
            yield {**content, "parent_tool_use_id": None}

        try:
            await self._client.query(messages())
        except Exception as fault:
            self._fault = self._fault or fault
            raise self.ending() from fault
        self.activity.note_prompt()
        return message_id

    async def message(self) -> Message:
        """The next one. Raises `ProgramEnded`."""
        message = await self._messages.get()
        if message is None:
            raise self.ending()
        self.activity.note(message)
        return message

    async def mcp_servers(self) -> list[McpServerStatus]:
        """The program's MCP servers and their states. Raises `ProgramEnded`."""
        try:
            return (await self._client.get_mcp_status())["mcpServers"]
        except Exception as fault:
            self._fault = self._fault or fault
            raise self.ending() from fault

    def warnings(self) -> list[str]:
        """Lines of stderr about settings that the program ignores, each line once."""
        new = [line for line in self._stderr if line.startswith(IGNORED_SETTING) and line not in self._warned]
        self._warned.update(new)
        return new

    async def ended(self) -> None:
        """Return when it has ended, or cannot be heard any more."""
        await asyncio.wait({self._reading})

    def ending(self) -> ProgramEnded:
        return ending_of(self._fault, self._stderr)

    def pass_over(self) -> None:
        """What has come since the last turn, of what the program does by itself."""
        while not self._messages.empty() and not self._reading.done():
            if (message := self._messages.get_nowait()) is not None:
                self.activity.note(message)

    async def interrupt(self) -> None:
        """The turn is given up: what its tools have started ends."""
        with contextlib.suppress(Exception):  # it is gone, or does not listen; it is ended all the same
            async with asyncio.timeout(INTERRUPT_S):
                await self._client.interrupt()

    async def stop_background(self) -> None:
        """End the background work. Returns when the program has answered, at the latest after `INTERRUPT_S`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(INTERRUPT_S):
                for task_id in list(self.activity.background):
                    with contextlib.suppress(Exception):  # it has ended by itself, or the program has
                        await self._client.stop_task(task_id)

    async def aclose(self) -> None:
        self._reading.cancel()
        await asyncio.wait({self._reading})

    async def _read(self) -> None:
        try:
            async for message in self._client.receive_messages():
                self._messages.put_nowait(message)
        except Exception as fault:  # noqa: BLE001 - whoever waits for a message has to hear of it
            self._fault = fault
        finally:
            self._messages.put_nowait(None)


@asynccontextmanager
async def running_program(invocation: Invocation, config: Config, resume: str | None) -> AsyncIterator[Program]:
    """Raises `ProgramEnded` where it cannot be started. Interrupted, if need be, and ended when the block is left."""
    stderr: deque[str] = deque(maxlen=KEPT_STDERR_LINES)
    with TemporaryDirectory(prefix="claude-code-") as folder:
        options = options_of(invocation, config, resume, Path(folder), stderr.append)
        client = await _connected(options, stderr)
    # What was in the folder has been read: no credentials are left there, however this process ends.
    program = Program(client, stderr)
    try:
        yield program
    except BaseException:
        # The turn may be in progress. Without the interrupt its requests and tools go on until the program is ended.
        await program.interrupt()
        raise
    finally:
        # Without its input the program would first wait for the background work to end.
        program.pass_over()
        await program.stop_background()
        await program.aclose()
        await client.disconnect()


async def _connected(options: ClaudeAgentOptions, stderr: deque[str]) -> Client:
    client = Client(options)
    try:
        await client.connect()
    except Exception as fault:
        raise ending_of(fault, stderr) from fault
    return client


def ending_of(fault: Exception | None, stderr: deque[str]) -> ProgramEnded:
    """How the program ended, and the last lines of its stderr."""
    how = _how_it_ended(fault)
    said = "\n".join(stderr).strip()
    if (found := NO_CONVERSATION.search(f"{how}\n{said}")) is not None:
        return ProgramEnded(
            f"Claude Code cannot resume the conversation {found[1]}: there is no transcript of it for the project "
            f"{Path.cwd()} in {config_folder(os.environ)} ({CONFIG_FOLDER}); keep that folder on a lasting "
            "volume, or start a new session"
        )
    tail = f"; the end of its stderr:\n{said}" if said and said not in how else ""
    return ProgramEnded(f"Claude Code has ended: {how}{tail}")


def _how_it_ended(fault: Exception | None) -> str:
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
