"""Builds what the runs of a runner need to follow workflows."""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from loguru import logger

from fsm_runner.config.profiles import PROCEDURAL_COMMAND, LoadedProfile
from fsm_runner.config.workflows import find_workflow
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.errors import UsageError
from fsm_runner.executors.children import ChildBounds
from fsm_runner.executors.environment import executor_environment
from fsm_runner.process.limits.launch_policy import LaunchPolicy
from fsm_runner.protocol.wire import JsonObject
from fsm_runner.reporting.session_channel import ReportingContext
from fsm_runner.runtime.actors.record import Record
from fsm_runner.runtime.expectations import ExpectationContext
from fsm_runner.runtime.workflow.approvals import Approvals
from fsm_runner.runtime.workflow.context import WorkflowContext
from fsm_runner.runtime.workflow.workflows import WorkflowChoice, Workflows
from fsm_runner.workflow.file import LoadedWorkflow, load_workflow


class NamedWorkflows:
    """The workflows in the homes. Their files may change while the runner works; one is checked only if it has."""

    def __init__(self) -> None:
        self._known: dict[Path, LoadedWorkflow] = {}

    def load(self, name: str) -> LoadedWorkflow:
        """Return the workflow of this name. Raises `UsageError`."""
        path = find_workflow(name)
        workflow = self._known[path] = load_workflow(path, self._known.get(path))
        return workflow


def workflow_of(name_or_file: str) -> LoadedWorkflow:
    """Return the workflow in a file, if the text contains a `/` or ends with `.toml`, else by its name.

    Raises `UsageError`.
    """
    is_file = "/" in name_or_file or name_or_file.endswith(".toml")
    return load_workflow(Path(name_or_file) if is_file else find_workflow(name_or_file))


def _config_defect(profile: LoadedProfile, config: JsonObject) -> str | None:
    defects = list(profile.manifest.defects({**profile.profile.config, **config}))
    return "; ".join(defects) or None


def build_workflows(
    profile: LoadedProfile,
    reporting: ReportingContext,
    record: Record,
    api: CoordinatorApi,
    child_bounds: ChildBounds,
    launch_policy: LaunchPolicy,
    tags: Mapping[str, str],
    expectations: ExpectationContext,
    approvals: Approvals,
    of_all: LoadedWorkflow | None,
) -> Workflows:
    """`of_all`: the workflow of all runs.

    The log has an error for the profile and each agent whose workflow cannot be used. That raises nothing: runs that
    have begun need no file, and `WorkflowChoice.of_run` refuses new ones.
    """
    workflows = NamedWorkflows()
    choice = WorkflowChoice(
        load=workflows.load,
        of_all=of_all,
        of_profile=profile.profile.workflow,
        agents={agent.name: agent for agent in profile.agents},
        is_procedural=profile.profile.command == PROCEDURAL_COMMAND,
        config_defect=partial(_config_defect, profile),
    )
    named = {profile.path: profile.profile.workflow}
    named |= {profile.agent_files[agent.name]: agent.workflow for agent in profile.agents}
    asking: set[str] = set()
    for file, name in named.items():
        if name is None:
            continue
        try:
            workflow = workflows.load(name)
        except UsageError as defect:
            logger.error("{}: new runs fail, because their workflow cannot be used: {}", file, defect)
            continue
        if any(state.approval is not None for state in workflow.definition.states.values()):
            asking.add(workflow.path)
    if launch_policy.user is None:
        for path in sorted(asking):
            _warn_of_own_approvals(path)
    context = WorkflowContext(
        environment=executor_environment(
            os.environ, named=profile.variables, user=launch_policy.user, tags=tags, has_sdk=True
        ),
        inherited=os.environ,
        launch_policy=launch_policy,
        api=api,
        child_bounds=child_bounds,
        git=expectations.git,
        checker=expectations.checker,
        approvals=approvals,
        flush=record.flush,
    )
    return Workflows(choice, context, reporting, record)


def _warn_of_own_approvals(path: str) -> None:
    """Say that executors of the runner's user could approve what their own run asks."""
    logger.warning(
        "{}: the workflow asks for approvals, and executors run as the user of this runner: the runner refuses "
        "decisions of their processes, but that user's rights suffice to decide in other ways; start the runner with "
        "--run-as to prevent this",
        path,
    )
