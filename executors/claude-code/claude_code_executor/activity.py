"""What the program is doing, from its own messages: whether it works, and which work it has in the background."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto
from typing import Any

from claude_agent_sdk import ResultMessage, SystemMessage
from claude_agent_sdk.types import Message

AGENTS = ("local_agent", "local_workflow")
"""Types of tasks in which a model works."""

SHOWN_TASK_CHARS = 80
"""Of a task's description. The model chooses it; for a command without one it is the command."""


class Phase(Enum):
    WORKING = auto()
    """A turn of the model is in progress, or sub-agents work, after which a turn is due."""
    BETWEEN = auto()
    """A turn, or background work, has ended. Within 100 ms the program begins a further turn or reports itself idle."""
    IDLE = auto()
    """No turn is in progress or due."""


class Activity:
    """Sub-agents and shell commands can go on after the model's turn. When one of them ends, the program begins a
    further turn by itself, so its work is over only when it is idle and nothing is left in the background."""

    def __init__(self) -> None:
        self.phase = Phase.IDLE
        self._is_in_turn = False
        self.background: dict[str, str] = {}
        """Descriptions of the background tasks, by task id."""
        self.has_agents = False
        """Whether sub-agents are among these tasks."""

    @property
    def is_over(self) -> bool:
        return self.phase is Phase.IDLE and not self.background

    @property
    def is_in_background(self) -> bool:
        """Whether background work goes on, and the model has no turn."""
        return not self._is_in_turn and bool(self.background)

    def note_prompt(self) -> None:
        self.phase = Phase.WORKING
        self._is_in_turn = True

    def note(self, message: Message) -> None:
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

    def settle(self) -> None:
        """The program has neither begun a turn nor reported itself idle: take it as idle."""
        self.phase = Phase.IDLE

    def abandon_background(self) -> None:
        """Do not wait for the background work any longer, but for what the program makes of its end."""
        self.background = {}
        self.phase = Phase.BETWEEN


def _counts(task: Mapping[str, Any]) -> bool:
    """Whether a turn waits for it. The program marks its own housekeeping, and work on other machines."""
    return not task.get("ambient") and not task.get("off_host")


def _description(task: Mapping[str, Any]) -> str:
    return " ".join(str(task.get("description", task["task_id"])).split())[:SHOWN_TASK_CHARS]
