"""The executable form of a workflow, which all runs of it share: its machine and its guards."""

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fsm_runner.machine.defects import Path
from fsm_runner.machine.engine import Machine
from fsm_runner.machine.toml_lines import TomlLines
from fsm_runner.workflow.expansion import CHOSEN, INTERRUPTED, follows
from fsm_runner.workflow.file import LoadedWorkflow, WorkflowFile

if TYPE_CHECKING:
    from fsm_runner.workflow.expressions import Guard, NameTypes


class GuardFault(Exception):
    """A guard cannot be evaluated. `at`: its place in the file."""

    def __init__(self, message: str, at: Path) -> None:
        super().__init__(message)
        self.at = at


class Program:
    def __init__(self, workflow: LoadedWorkflow) -> None:
        self.workflow = workflow
        self.machine = Machine(workflow.spec)
        self._guards: dict[str, Guard] = {}
        """By expression, once needed."""
        self.states = workflow.definition.all_states
        self.file = WorkflowFile(
            path=workflow.path, text=workflow.text, definition=workflow.definition, lines=TomlLines(workflow.text)
        )

    def facts(self, state: str, event: str, names: Mapping[str, Any]) -> frozenset[str]:
        """Return the name of the first guard that holds for an event in a state; nothing if none does.

        Raises `GuardFault`.
        """
        declared = self.states[state]
        key = "on_done" if event == CHOSEN else f"on_{event}"
        for index, branch in enumerate(() if event == INTERRUPTED else follows(declared, event)):
            if branch.when is None:
                break
            if self._holds(branch.when, names, ("states", state, key, index, "when")):
                return frozenset({f"{state}.{event}.{index}"})
        return frozenset()

    def _holds(self, when: str, names: Mapping[str, Any], at: Path) -> bool:
        # Imported only here: a workflow without guards needs no CEL.
        from fsm_runner.workflow.expressions import ExpressionError, compile_guard

        try:
            if (guard := self._guards.get(when)) is None:
                guard = self._guards[when] = compile_guard(when, self._types)
            return guard.holds(names)
        except ExpressionError as error:
            raise GuardFault(f"column {error.column}: {error}", at) from error

    @functools.cached_property
    def _types(self) -> "NameTypes":
        from fsm_runner.workflow.check.types import types_of

        return types_of(self.workflow.definition, self.workflow.schemas)


@functools.lru_cache(maxsize=64)
def program_of(workflow: LoadedWorkflow) -> Program:
    return Program(workflow)
