"""The placeholders of an agent that the runner fills in. Contract: protocol.md, section 1.2."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from fsm_runner.coordinator.wire import JsonObject, Run

RunnerValues = Callable[[str], Mapping[str, str]]
"""Of a session, by placeholder: `${runner.orchestrator_mcp_url}` is the only one that is defined; an unknown one stays
as it is."""

MCP_URL_PLACEHOLDER = "${runner.orchestrator_mcp_url}"


def no_runner_values(session_id: str) -> Mapping[str, str]:
    return {}


def with_runner_values(run: Run, values: RunnerValues) -> Run:
    """The run with every placeholder in its blueprint replaced, wherever in a text it stands."""
    if run.resolved_agent_blueprint is None:
        return run
    blueprint = _filled(run.resolved_agent_blueprint, values(run.session_id))
    return msgspec.structs.replace(run, resolved_agent_blueprint=blueprint)


def _filled(blueprint: JsonObject, values: Mapping[str, str]) -> JsonObject:
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


def _replaced(text: str, values: Mapping[str, str]) -> str:
    for placeholder, replacement in values.items():
        text = text.replace(placeholder, replacement)
    return text
