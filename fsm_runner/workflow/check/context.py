"""The questions that several rules ask about a workflow."""

from collections.abc import Collection, Mapping
from functools import cached_property
from typing import NamedTuple

from fsm_runner.machine.defects import Path
from fsm_runner.workflow.check.flow import Fact, Flow
from fsm_runner.workflow.check.graph import Edge, Graph
from fsm_runner.workflow.check.types import types_of
from fsm_runner.workflow.definition import JsonSchema, State, Workflow
from fsm_runner.workflow.value_types import NameTypes, Step


class Use(NamedTuple):
    """A value that a template or a guard needs."""

    path: tuple[Step, ...]
    place: Path
    state: str | None
    """The state whose activity needs it, or which is final; None for a guard."""
    edge: Edge | None
    """The edge whose guard needs it."""


class Context:
    """A workflow under examination. `schemas`: by state, files resolved. `file_name`: without suffix, empty if none.

    `start`: the state in which it begins, if not in `initial`. `given`: the fields of values that exist there.
    """

    def __init__(
        self,
        definition: Workflow,
        schemas: Mapping[str, JsonSchema],
        file_name: str = "",
        *,
        start: str | None = None,
        given: Collection[Fact] = (),
    ) -> None:
        self.definition = definition
        self.start = start or definition.initial
        self._given = given
        self.schemas = schemas
        self.file_name = file_name
        self.states: dict[str, State] = definition.all_states
        self.graph = Graph(definition)
        self.uses: list[Use] = []
        """What the rules about references have found."""

    @cached_property
    def flow(self) -> Flow:
        """Only if `start` is a state."""
        return Flow(self.graph, self.start, self._given)

    @cached_property
    def types(self) -> NameTypes:
        return types_of(self.definition, self.schemas)
