"""The placeholders of an agent that the runner fills in. Contract: protocol.md, section 1.2."""

from collections.abc import Mapping
from typing import Any

import msgspec

from fsm_runner.coordinator.wire import Run

RunnerValues = Mapping[str, str]
"""By placeholder: `${runner.orchestrator_mcp_url}` is the only one that is defined; an unknown one stays as it is."""

MCP_URL_PLACEHOLDER = "${runner.orchestrator_mcp_url}"


def with_runner_values(run: Run, values: RunnerValues) -> Run:
    """The run with every placeholder in its blueprint replaced, wherever in a text it stands."""
    if run.resolved_agent_blueprint is None or not values:
        return run
    blueprint = _filled(run.resolved_agent_blueprint, values)
    return msgspec.structs.replace(run, resolved_agent_blueprint=blueprint)


def _filled(value: Any, values: RunnerValues) -> Any:
    if isinstance(value, str):
        for placeholder, replacement in values.items():
            value = value.replace(placeholder, replacement)
        return value
    if isinstance(value, list):
        return [_filled(each, values) for each in value]
    if isinstance(value, dict):
        return {key: _filled(each, values) for key, each in value.items()}
    return value
