"""The placeholders of an agent that the runner fills in. Contract: protocol.md, section 1.2."""

from collections.abc import Callable, Mapping

import msgspec

from fsm_runner.coordinator.nesting import with_texts
from fsm_runner.coordinator.wire import Run

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
    own = values(run.session_id)
    blueprint = with_texts(run.resolved_agent_blueprint, lambda text: _replaced(text, own))
    return msgspec.structs.replace(run, resolved_agent_blueprint=blueprint)


def _replaced(text: str, values: Mapping[str, str]) -> str:
    for placeholder, replacement in values.items():
        text = text.replace(placeholder, replacement)
    return text
