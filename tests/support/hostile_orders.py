"""Polls that bring what a coordinator has no business to ask for."""

import itertools
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.faults import Answer
from tests.support.hostile_answers import NAMES, Hostile
from tests.support.hostile_requests import as_bytes

Json = Any
MARKER = "PWNED"
"""The name of a file that nothing may make."""


def _commands(marker: Path) -> list[str]:
    touch = f"touch {marker}"
    return [
        *(f"/bin/sh -c '{touch}'", f"../../bin/sh -c '{touch}'", f"{'../' * 30}bin/sh -c '{touch}'"),
        *(f"commands/../../../{'../' * 30}usr/bin/{touch}", f"/usr/bin/env {touch}", f"sh -c '{touch}'", touch),
        *(f"$({touch})", f"`{touch}`", f"commands/say; {touch}", f"commands/say | {touch}", f"commands/say && {touch}"),
        *(f"commands/say\n{touch}", f"commands/say\0{touch}", f"commands/say > {marker}", f"${{IFS}}{touch}"),
        *(f"commands/say $({touch})", "commands/say 'unclosed", "commands", ".", "..", "./..", "", " ", "'' x", "\0"),
        *("commands//../../..//../bin/touch PWNED", "agents/bench/say.json", "commands/say/../../../../bin/sh"),
        *("file:///bin/sh", "~/x", "-c x", "commands/" + "x" * 5_000, "\udce9".encode("utf-8", "replace").decode()),
    ]


def _project_dirs(outside: Path) -> list[Json]:
    return [
        *("/", "/proc/self", "/dev/null", "/nonexistent", "relative", "..", "", " ", "\0", "/\0", "x" * 1_000_000),
        *("/" + "x" * 5_000, f"{outside}/../{outside.name}", "~", "$HOME", 7, True, [], {}, ["/"], "/a\nb", "//"),
    ]


PARAMETERS: list[Json] = [
    *({"text": f"$(touch {MARKER})"}, {"text": f"; touch {MARKER}"}, {"--help": True}, {"": "x"}, {"a b": 1}),
    *({"a=b": 1}, {"a\0": 1}, {"a": "\0"}, {"a": "@half a pair@"}, {"a": "x" * 300_000}, {"a": ["x"] * 10_000}),
    *({"a": "@nested 900@"}, {"a": "@nested 985@"}, {"a": 1e308}, {"a": 2**70}, {f"k{n}": "v" for n in range(9_000)}),
    *([], "text", 7, ["--text", "x"], {"LD_PRELOAD": "/x.so", "text": "x"}, {"a": {"b": [None, {"c": "d"}]}}),
]


class Orders:
    """For a runner with the agent `say`, whose command is `commands/say`. Every run has an id of its own."""

    def __init__(self, rng: random.Random, marker: Path, outside: Path) -> None:
        """`marker`: a file that nothing may make. `outside`: a folder that is not the project's."""
        self._rng = rng
        self._numbers = itertools.count(1)
        names = NAMES
        stops: list[Json] = [names, ["ses_1"] * 20_000, "ses_1", {}, [None], [[]], 7]
        blueprints: list[Json] = [None, {}, [], "say", {"name": "say"}]
        self._kinds: dict[str, list[Json]] = {
            "command": [self._run(agent={"command": each}) for each in _commands(marker)],
            "script": [self._run(agent={"command": None, "script": each}) for each in [*names, 7, ["x"], {}]],
            "project_dir": [self._run(project_dir=each) for each in _project_dirs(outside)],
            "parameters": [self._run(parameters=each) for each in PARAMETERS],
            "run_id": [self._run(run_id=each) for each in [*names, 7, None, ["x"]]],
            "session_id": [self._run(session_id=each) for each in [*names, 7, None, ["x"]]],
            "agent_name": [self._run(agent_name=each, agent={"name": each}) for each in [*names, 7, None]],
            "type": [self._run(type=each) for each in ["resume_session", "delete_session", "", 1, None]],
            "blueprint": [self._run(resolved_agent_blueprint=each) for each in blueprints],
            "no run": [{"run": each} for each in [[], "run_1", 7, {}, {"run_id": "x"}, {"session_id": "x"}, True]],
            "stop": [{"stop_sessions": each} for each in stops],
            "sync": [{"sync_scripts": each, "remove_scripts": []} for each in [names, "x", {}, [None], [7], 7]],
            "remove": [{"remove_scripts": each} for each in [names, ["."], "x", {"x": 1}, [None], 7]],
            "deregister": [{"deregistered": each} for each in ["true", 1, "yes", [True], {}, {"deregistered": True}]],
            "many": [{"sync_scripts": [f"no-such-{number}" for number in range(100_000)]}, {"run": None, "runs": []}],
        }

    def __iter__(self) -> Iterator[Hostile]:
        """Without an end: of each kind in turn."""
        decks = {kind: self._shuffled(orders) for kind, orders in self._kinds.items()}
        while True:
            for kind, deck in decks.items():
                yield f"order: {kind}", Answer(200, as_bytes(next(deck)))

    def _shuffled(self, orders: list[Json]) -> Iterator[Json]:
        while True:
            yield from self._rng.sample(orders, len(orders))

    def _run(self, *, agent: Json = None, **fields: Json) -> Json:
        number = next(self._numbers)
        blueprint = {"name": "say", "type": "procedural", "command": "commands/say", **(agent or {})}
        run = {
            "run_id": f"run_hostile_{number}",
            "session_id": f"ses_hostile_{number}",
            "type": "start_session",
            "agent_name": "say",
            "parameters": {"text": "x"},
            "resolved_agent_blueprint": blueprint,
        }
        return {"run": run | fields}
