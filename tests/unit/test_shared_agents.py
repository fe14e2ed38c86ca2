"""Agents that one runner owns, or several together."""

from typing import Any

import pytest

from fsm_runner.coordinator_server.agents import AgentCatalog, AgentOwner, CatalogAgent
from fsm_runner.coordinator_server.errors import Conflict

OWNER = AgentOwner("echo", "procedural")


def agent(name: str = "greet", owner: AgentOwner | None = OWNER, **fields: Any) -> CatalogAgent:
    return CatalogAgent({"name": name, "command": "greet", **fields}, owner)


def owners(catalog: AgentCatalog) -> dict[str, tuple[str, ...]]:
    return {name: each.runner_ids for name, each in catalog.by_name.items()}


def test_runners_with_the_same_definition_own_an_agent_together() -> None:
    catalog = AgentCatalog()
    catalog.replace_owned("one", [agent(), agent("other")])
    catalog.replace_owned("two", [agent()])
    assert owners(catalog) == {"greet": ("one", "two"), "other": ("one",)}
    listed = catalog.by_name["greet"].as_json()
    assert (listed["runner_id"], listed["runner_ids"]) == ("one", ("one", "two"))
    catalog.replace_owned("one", [])
    assert owners(catalog) == {"greet": ("two",)}
    catalog.replace_owned("two", [])
    assert owners(catalog) == {}


@pytest.mark.parametrize(
    "other",
    [
        agent(description="another one"),
        agent(owner=AgentOwner("best", "procedural")),
        agent(owner=AgentOwner("echo", "autonomous")),
        agent(tags=None),
        agent(parameters_schema={"minimum": 1.0}),
    ],
)
def test_another_definition_or_profile_is_refused_and_changes_nothing(other: CatalogAgent) -> None:
    catalog = AgentCatalog()
    catalog.replace_owned("one", [agent(parameters_schema={"minimum": True})])
    catalog.replace_owned("two", [agent("mine")])
    with pytest.raises(Conflict, match="with another definition or under another profile") as refused:
        catalog.replace_owned("two", [agent("further"), other])
    assert isinstance(refused.value.detail, dict)
    assert refused.value.detail["existing_runner_id"] == "one"
    assert owners(catalog) == {"greet": ("one",), "mine": ("two",)}


def test_an_agent_of_a_file_has_no_other_owner() -> None:
    catalog = AgentCatalog([agent(owner=None)])
    with pytest.raises(Conflict, match="a file of the coordinator"):
        catalog.replace_owned("one", [agent()])


def test_one_runner_cannot_bring_two_agents_of_one_name() -> None:
    with pytest.raises(Conflict):
        AgentCatalog().replace_owned("one", [agent(), agent()])


def test_the_only_owner_may_change_its_agent() -> None:
    catalog = AgentCatalog()
    catalog.replace_owned("one", [agent(max_running=2)])
    assert catalog.max_running == {"greet": 2}
    catalog.replace_owned("one", [agent(description="new")])
    assert catalog.by_name["greet"].agent.description == "new"
    assert catalog.max_running == {}
