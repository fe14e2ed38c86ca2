"""Finds the defects of a workflow before a run follows it. docs/workflows.md describes the rules.

Each module has the rules about one subject.
"""

from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING

from fsm_runner.machine.decoder import Problem
from fsm_runner.machine.defects import Defect, in_order
from fsm_runner.workflow.check import activities, assignment, commands, references, schemas, states, termination
from fsm_runner.workflow.check.context import Context
from fsm_runner.workflow.check.flow import Fact
from fsm_runner.workflow.check.remedies import with_remedy
from fsm_runner.workflow.definition import ENDINGS, JsonSchema, Workflow

if TYPE_CHECKING:
    from fsm_runner.workflow.file import WorkflowFile

RULES = (
    activities.keys_go_together,
    activities.arguments_go_together,
    commands.value_is_no_option_and_no_script,
    states.name_is_that_of_the_file,
    states.name_is_free,
    states.next_state_exists,
    states.last_branch_has_no_condition,
    states.state_can_be_reached,
    states.default_has_the_type_of_the_parameter,
    schemas.schema_is_a_json_schema,
    references.literal_contains_no_template,
    references.template_names_values,
    references.guard_is_an_expression,
    assignment.value_is_assigned_on_every_path,  # after the rules that note the uses
    termination.activity_has_a_time_limit,
    termination.cycle_is_cut_by_max_visits,
)
STATES_LIMIT = 500
BRANCHES_LIMIT = 5_000
"""The time of some rules grows with the product of the two."""
_SPLIT = "let it start agents that have a workflow of their own"


def check(file: "WorkflowFile") -> tuple[Defect, ...]:
    """Return all defects, each once, by line; none if the workflow is sound.

    Of a file that deviates from the format, only these deviations.
    """
    definition = file.definition
    if definition is None:
        return tuple(map(with_remedy, file.defects))
    if message := _too_large(definition):
        return in_order((*file.defects, file.defect(("states",), message)))
    path = PurePath(file.path)
    context = Context(definition, file.schemas, path.stem if path.suffix == ".toml" else "")
    found = [file.defect(*problem) for rule in RULES for problem in rule(context)]
    return in_order((*file.defects, *found))


def missing_values(
    definition: Workflow, schemas: Mapping[str, JsonSchema], start: str, given: Collection[Fact]
) -> list[Problem]:
    """Return the values that a sound workflow needs and that may not exist, if it begins in the state `start`.

    `given`: the values and their fields that exist there.
    """
    context = Context(definition, schemas, start=start, given=given)
    for rule in (references.template_names_values, references.guard_is_an_expression):
        for _ in rule(context):
            pass  # the workflow is sound: only the uses are needed
    return [*assignment.value_is_assigned_on_every_path(context)]


def _too_large(definition: Workflow) -> str | None:
    if len(definition.states) > STATES_LIMIT:
        return f"has {len(definition.states):,} states, more than {STATES_LIMIT}: {_SPLIT}"
    branches = sum(len(state.branches(ending)) for state in definition.states.values() for ending in ENDINGS)
    if branches > BRANCHES_LIMIT:
        return f"has {branches:,} branches, more than {BRANCHES_LIMIT:,}: {_SPLIT}"
    return None
