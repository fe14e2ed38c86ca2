"""Tracks what Claude Code is doing, from its own messages: turns of the model and background tasks."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

from claude_agent_sdk import ResultMessage, SystemMessage
from claude_agent_sdk.types import Message

AGENTS = ("local_agent", "local_workflow")
"""The types of tasks in which a model works."""

TASK_DESCRIPTION_CHARS = 80
"""The model writes the descriptions. A shell command without one is its own description, which can be long."""


class Phase(Enum):
    WORKING = auto()
    """The model has a turn, or sub-agents work, whose end starts a turn."""
    BETWEEN = auto()
    """A turn or a background task has ended. The program starts a further turn or reports idle within 100 ms."""
    IDLE = auto()
    """The model has no turn, and none is due."""


class ProgramState:
    """The phase of the program and its background tasks.

    Sub-agents and shell commands can outlast the model's turn. When one of them ends, the program starts a further
    turn by itself. So its work is done only when it is idle and has no background tasks.
    """

    def __init__(self) -> None:
        self.phase = Phase.IDLE
        self._is_in_turn = False
        self.background: dict[str, str] = {}
        """The descriptions of the background tasks, by task id."""
        self.has_agents = False
        """Whether any background task is a sub-agent."""

    @property
    def is_done(self) -> bool:
        return self.phase is Phase.IDLE and not self.background

    @property
    def is_in_background(self) -> bool:
        """Whether background tasks run while the model has no turn."""
        return not self._is_in_turn and bool(self.background)

    def record_prompt(self) -> None:
        self.phase = Phase.WORKING
        self._is_in_turn = True

    def record(self, message: Message) -> None:
        match message:
            case SystemMessage(subtype="init"):
                self._is_in_turn = True
                self.phase = Phase.WORKING
            case ResultMessage():
                self._is_in_turn = False
            case SystemMessage(subtype="session_state_changed", data={"state": state}):
                self.phase = Phase.IDLE if state == "idle" else Phase.WORKING
            case SystemMessage(subtype="background_tasks_changed", data={"tasks": list() as tasks}):
                counted = [task for task in tasks if _counts(task)]
                before, self.background = self.background, {task["task_id"]: _description(task) for task in counted}
                self.has_agents = any(task.get("task_type") in AGENTS for task in counted)
                if self.phase is Phase.IDLE and before.keys() - self.background.keys():
                    self.phase = Phase.BETWEEN
        if self.phase is Phase.WORKING and not self._is_in_turn and not self.background:
            self.phase = Phase.BETWEEN

    def assume_idle(self) -> None:
        """Treat the program as idle because it neither started a turn nor reported idle in time."""
        self.phase = Phase.IDLE

    def forget_background(self) -> None:
        """Stop waiting for the background tasks. Their end can still start a turn."""
        self.background = {}
        self.phase = Phase.BETWEEN


def _counts(task: Mapping[str, Any]) -> bool:
    """Return whether a turn waits for the task, and not for housekeeping (`ambient`) or other machines (`off_host`)."""
    return not task.get("ambient") and not task.get("off_host")


def _description(task: Mapping[str, Any]) -> str:
    return " ".join(str(task.get("description", task["task_id"])).split())[:TASK_DESCRIPTION_CHARS]
