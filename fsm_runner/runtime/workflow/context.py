"""What the activities of workflows need of the runner."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.run_waiter import WaitPolicy
from fsm_runner.executors.children import ChildBounds, unbounded
from fsm_runner.json_schema.checker import SchemaChecker
from fsm_runner.process.limits.launch_policy import DEFAULT_LAUNCH_POLICY, LaunchPolicy
from fsm_runner.runtime.git import Git
from fsm_runner.runtime.workflow.approvals import Approvals

STREAMS_AT_ONCE = 50
"""Event streams of all children of workflows. Each needs one of the connections that calls of executors use too."""


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
    waits: WaitPolicy = WaitPolicy()
    """How often children are looked up, and how long the pauses between attempts to start one are."""
    streams: asyncio.Semaphore = msgspec.field(default_factory=lambda: asyncio.Semaphore(STREAMS_AT_ONCE))
    """For event streams of children. The other children are only looked up."""
    git: Git
    checker: SchemaChecker
    approvals: Approvals
    flush: Callable[[], Awaitable[None]]
    """Wait until the progress that steps have saved is on disk. Raises `JournalUnwritable`."""
