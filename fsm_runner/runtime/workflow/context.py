"""What the activities of workflows need of the runner."""

from collections.abc import Awaitable, Callable, Mapping

import msgspec

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.executors.children import ChildBounds, unbounded
from fsm_runner.json_schema.checker import SchemaChecker
from fsm_runner.process.limits.launch_policy import DEFAULT_LAUNCH_POLICY, LaunchPolicy
from fsm_runner.runtime.git import Git
from fsm_runner.runtime.workflow.approvals import Approvals


class WorkflowContext(msgspec.Struct, frozen=True, kw_only=True):
    """Shared by all runs of one runner."""

    environment: Mapping[str, str]
    """The variables that an executor gets in every session. A command gets them, and those that it names."""
    inherited: Mapping[str, str]
    """The runner's own environment, from which a command gets the variables that it names."""
    launch_policy: LaunchPolicy = DEFAULT_LAUNCH_POLICY
    """The user and the limits of commands."""
    api: CoordinatorApi
    """The one for calls of executors."""
    child_bounds: ChildBounds = unbounded
    git: Git
    checker: SchemaChecker
    approvals: Approvals
    flush: Callable[[], Awaitable[None]]
    """Wait until the progress that steps have saved is on disk. Raises `JournalUnwritable`."""
