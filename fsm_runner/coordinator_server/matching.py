"""Demands of runs and capabilities of runners (protocol.md, section 1.3)."""

import msgspec

from fsm_runner.protocol.json_tree import without_nulls
from fsm_runner.protocol.wire import JsonObject

COMPARED = ("runner_id", "hostname", "project_dir", "executor_profile", "executor_type")
"""The properties that must be equal if they are demanded."""


class Demands(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a run demands of its runner. An absent property is not demanded."""

    hostname: str | None = None
    project_dir: str | None = None
    executor_profile: str | None = None
    executor_type: str | None = None
    tags: tuple[str, ...] = ()
    runner_id: str | None = None
    """The runner that has the session's live executor. Clients cannot set it."""
    owned_agent: str | None = None
    """An agent that the runner must own. Clients cannot set it."""

    def merged_with(self, weaker: "Demands") -> "Demands":
        """Return both together: a property of this object wins, and tags add up."""
        tags = tuple(dict.fromkeys((*self.tags, *weaker.tags)))
        return Demands(**{**msgspec.to_builtins(weaker), **msgspec.to_builtins(self), "tags": tags})

    def without_own(self) -> "Demands":
        """Return the demands that clients can set."""
        return msgspec.structs.replace(self, runner_id=None, owned_agent=None)

    def as_json(self) -> JsonObject:
        """Return the demands as a run lists them."""
        listed: JsonObject = msgspec.to_builtins(self.without_own())
        return listed


def demands_from(untrusted: JsonObject | None) -> Demands:
    """Decode the demands of a blueprint, a script or a request. Raises msgspec.ValidationError."""
    return msgspec.convert(without_nulls(untrusted or {}), Demands).without_own()


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner offers."""

    runner_id: str
    hostname: str
    project_dir: str
    executor_profile: str
    executor_type: str
    tags: frozenset[str] = frozenset()
    require_matching_tags: bool = False
    owned_agents: frozenset[str] = frozenset()
    """The names of the agents that it brings."""


def meets(runner: Capabilities, demands: Demands) -> bool:
    """Return whether the runner may claim a run with these demands."""
    if any(getattr(demands, name) not in (None, getattr(runner, name)) for name in COMPARED):
        return False
    if demands.owned_agent is not None and demands.owned_agent not in runner.owned_agents:
        return False
    if runner.require_matching_tags and runner.tags.isdisjoint(demands.tags):
        return False
    return runner.tags.issuperset(demands.tags)
