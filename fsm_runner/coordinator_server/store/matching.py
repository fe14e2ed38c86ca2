"""Which runner may take which run (protocol.md, section 1.3)."""

import msgspec

from fsm_runner.coordinator_server.http.schemas import without_nulls
from fsm_runner.protocol.wire import JsonObject


class Demands(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a run asks of its runner; what is absent is not asked for."""

    hostname: str | None = None
    project_dir: str | None = None
    executor_profile: str | None = None
    executor_type: str | None = None
    tags: tuple[str, ...] = ()
    runner_id: str | None = None
    """The owner of the run's agent: nobody else can run it. Never taken from outside."""

    def over(self, weaker: "Demands") -> "Demands":
        """Both together: where they disagree on a property, this one stands; tags add up."""
        return Demands(
            hostname=self.hostname if self.hostname is not None else weaker.hostname,
            project_dir=self.project_dir if self.project_dir is not None else weaker.project_dir,
            executor_profile=self.executor_profile if self.executor_profile is not None else weaker.executor_profile,
            executor_type=self.executor_type if self.executor_type is not None else weaker.executor_type,
            tags=tuple(dict.fromkeys((*self.tags, *weaker.tags))),
            runner_id=self.runner_id if self.runner_id is not None else weaker.runner_id,
        )

    def shown(self) -> JsonObject:
        """The demands as a run shows them, without what is absent."""
        shown: JsonObject = msgspec.to_builtins(msgspec.structs.replace(self, runner_id=None))
        return shown


def demands_from(outside: JsonObject | None) -> Demands:
    """Demands as a blueprint, a script or a request states them. Raises msgspec.ValidationError."""
    demands = msgspec.convert(without_nulls(outside or {}), Demands)
    return msgspec.structs.replace(demands, runner_id=None)


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a runner has to offer."""

    runner_id: str
    hostname: str
    project_dir: str
    executor_profile: str
    executor_type: str
    tags: frozenset[str] = frozenset()
    require_matching_tags: bool = False


def meets(runner: Capabilities, demands: Demands) -> bool:
    """Whether the runner may take a run with these demands."""
    asked_and_offered = (
        (demands.runner_id, runner.runner_id),
        (demands.hostname, runner.hostname),
        (demands.project_dir, runner.project_dir),
        (demands.executor_profile, runner.executor_profile),
        (demands.executor_type, runner.executor_type),
    )
    if any(asked is not None and asked != offered for asked, offered in asked_and_offered):
        return False
    if runner.require_matching_tags and runner.tags.isdisjoint(demands.tags):
        return False
    return runner.tags.issuperset(demands.tags)
