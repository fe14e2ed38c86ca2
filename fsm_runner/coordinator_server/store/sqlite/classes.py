"""Classes of demands in the database, with the numbers of their open runs, which triggers count."""

from collections.abc import Mapping
from functools import lru_cache
from operator import itemgetter

import msgspec

from fsm_runner.coordinator_server.store.interface import DemandClass, QueueEntry
from fsm_runner.coordinator_server.store.sqlite.database import Database

CACHED_CLASSES = 4_096

_decode = msgspec.json.Decoder(DemandClass).decode


class ClassTable:
    def __init__(self, database: Database) -> None:
        self._database = database
        self.get = lru_cache(CACHED_CLASSES)(self._get)
        """Returns a class by id. An id never gets another meaning."""

    def id_of(self, demand_class: DemandClass) -> int:
        """Return the class's id, a new one if the class is not known."""
        definition = msgspec.json.encode(demand_class)
        row = self._database.row("SELECT class_id FROM classes WHERE definition = ?", (definition,))
        if row is None:
            row = self._database.row(
                "INSERT INTO classes (definition, limited_agent) VALUES (?, ?) RETURNING class_id",
                (definition, demand_class.limited_agent),
            )
            assert row is not None  # noqa: S101 - INSERT returns a row or raises
        return int(row["class_id"])

    def ready(self) -> Mapping[int, DemandClass]:
        rows = self._database.execute(
            "SELECT class_id, definition FROM classes WHERE ready + claimed + running > 0 AND ready > 0"
        )
        return {row["class_id"]: _decode(row["definition"]) for row in rows}

    def is_ready(self, class_id: int) -> bool:
        return self._database.row("SELECT 1 FROM classes WHERE class_id = ? AND ready > 0", (class_id,)) is not None

    def tagged(self, tag: str) -> list[int]:
        """Return the classes that demand the tag."""
        rows = self._database.execute(
            "SELECT class_id, definition FROM classes WHERE instr(definition, ?)", (msgspec.json.encode(tag),)
        )
        return [row["class_id"] for row in rows if tag in _decode(row["definition"]).demands.tags]

    def pinned_to(self, runner_id: str) -> Mapping[int, DemandClass]:
        """Return the classes that demand this runner."""
        rows = self._database.execute(
            "SELECT class_id, definition FROM classes WHERE instr(definition, ?)", (msgspec.json.encode(runner_id),)
        )
        classes = {row["class_id"]: _decode(row["definition"]) for row in rows}
        return {class_id: each for class_id, each in classes.items() if each.demands.runner_id == runner_id}

    def full_agents(self, max_running: Mapping[str, int]) -> list[str]:
        """Return the agents that are at their limits."""
        held = self._database.execute(
            "SELECT limited_agent, sum(claimed + running) AS held FROM classes"
            " WHERE limited_agent IN (SELECT value FROM json_each(?)) GROUP BY limited_agent",
            (msgspec.json.encode(list(max_running)).decode(),),
        )
        return [row["limited_agent"] for row in held if row["held"] >= max_running[row["limited_agent"]]]

    def queue(self, max_running: Mapping[str, int]) -> list[QueueEntry]:
        """Count the runs by demanded profile, owned agent and tags."""
        entries: dict[tuple[str, str, tuple[str, ...]], QueueEntry] = {}
        free = dict(max_running)
        rows = self._database.execute("SELECT * FROM classes WHERE ready + claimed + running > 0").fetchall()
        rows.sort(key=itemgetter("class_id"))
        for row in rows:
            if row["limited_agent"] in free:
                free[row["limited_agent"]] -= row["claimed"] + row["running"]
        for row in rows:
            demands, held, ready = _decode(row["definition"]).demands, row["claimed"] + row["running"], row["ready"]
            wanted = min(ready, max(0, free.get(row["limited_agent"], ready)))
            if row["limited_agent"] in free:
                free[row["limited_agent"]] -= wanted
            key = (demands.executor_profile or "", demands.owned_agent or "", tuple(sorted(demands.tags)))
            known = entries.get(key)
            entries[key] = QueueEntry(
                executor_profile=demands.executor_profile,
                agent_name=demands.owned_agent,
                tags=list(key[2]),
                pending=ready + (known.pending if known else 0),
                claimed=row["claimed"] + (known.claimed if known else 0),
                running=row["running"] + (known.running if known else 0),
                wanted=held + wanted + (known.wanted if known else 0),
            )
        return [entry for _, entry in sorted(entries.items())]

    def _get(self, class_id: int) -> DemandClass:
        row = self._database.row("SELECT definition FROM classes WHERE class_id = ?", (class_id,))
        if row is None:
            raise LookupError(f"there is no class {class_id}")
        return _decode(row["definition"])
