"""The placeholders of an agent that the runner fills in. Contract: protocol.md, section 1.2."""

from collections.abc import Mapping
from typing import Any

import msgspec

from fsm_runner.coordinator.wire import JsonObject, Run

RunnerValues = Mapping[str, str]
"""By placeholder: `${runner.orchestrator_mcp_url}` is the only one that is defined; an unknown one stays as it is."""

MCP_URL_PLACEHOLDER = "${runner.orchestrator_mcp_url}"


def with_runner_values(run: Run, values: RunnerValues) -> Run:
    """The run with every placeholder in its blueprint replaced, wherever in a text it stands."""
    if run.resolved_agent_blueprint is None or not values:
        return run
    blueprint = _filled(run.resolved_agent_blueprint, values)
    return msgspec.structs.replace(run, resolved_agent_blueprint=blueprint)


def _filled(blueprint: JsonObject, values: RunnerValues) -> JsonObject:
    """A copy. Without recursion: JSON may be decoded to a depth that calls cannot reach."""
    copy = blueprint.copy()
    unseen: list[JsonObject | list[Any]] = [copy]
    while unseen:
        container: Any = unseen.pop()
        for place, value in list(container.items() if isinstance(container, dict) else enumerate(container)):
            if isinstance(value, str):
                container[place] = _replaced(value, values)
            elif isinstance(value, dict | list):
                container[place] = value.copy()
                unseen.append(container[place])
    return copy


def _replaced(text: str, values: RunnerValues) -> str:
    for placeholder, replacement in values.items():
        text = text.replace(placeholder, replacement)
    return text
