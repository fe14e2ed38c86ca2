"""Visits of states, and what their steps need of a runner."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.executors.environment import executor_environment
from fsm_runner.json_schema.checker import SchemaChecker
from fsm_runner.protocol.wire import Run
from fsm_runner.runtime.git import Git
from fsm_runner.runtime.workflow.approvals import Approvals
from fsm_runner.runtime.workflow.context import WorkflowContext
from fsm_runner.runtime.workflow.step import Visit
from fsm_runner.workflow.definition import Activity, State
from tests.support.repositories import git_environment

PARENT = Run(run_id="run_parent", session_id="ses_parent")


async def _nothing() -> None:
    pass


def new_context(api: CoordinatorApi, inherited: Mapping[str, str] = os.environ, **fields: Any) -> WorkflowContext:
    parts: dict[str, Any] = {
        "environment": executor_environment(inherited),
        "inherited": inherited,
        "api": api,
        "git": Git(environment=git_environment()),
        "checker": SchemaChecker(),
        "approvals": Approvals(),
        "flush": _nothing,
    }
    return WorkflowContext(**{**parts, **fields})


def new_visit(key: str, arguments: Activity, folder: Path, **fields: Any) -> Visit:
    """A visit of a state whose activity `key` has these arguments, without templates unless `state` says otherwise."""
    parts: dict[str, Any] = {
        "run": PARENT,
        "project_dir": folder,
        "runner_id": "runner",
        "number": 1,
        "state_name": "work",
        "state": msgspec.structs.replace(State(), **{key: arguments}),
        "arguments": arguments,
        "schema": None,
        "due_s": None,
        "save": lambda _: None,
    }
    return Visit(**{**parts, **fields})
