"""Workflows that a random generator writes, each of which ends within its bounds."""

import random
from collections.abc import Mapping
from typing import Any

Raw = dict[str, Any]

ACTIVITIES: Mapping[str, Raw] = {
    "turn": {"prompt": "work"},
    "command": {"run": ["true"]},
    "agent": {"name": "child"},
    "approval": {"question": "Go on?"},
    "wait": {"for_s": 60},
}


def bounded_workflow(rng: random.Random, *, guards: tuple[str, ...] = ()) -> Raw:
    """Return a sound workflow, as `tomllib` would.

    Each activity has `max_visits`. Choices, and states that are used up, lead only to later states, so no circle can be
    without a visit that counts.
    """
    names = [f"s{number}" for number in range(rng.randint(1, 7))]
    states: Raw = {}
    for number, name in enumerate(names):
        later = [*names[number + 1 :], "completed", "failed", "stopped"]
        anywhere = [*names, "completed", "failed", "stopped"]
        if number > 0 and rng.random() < 0.2:
            states[name] = {"on_done": _branches(rng, later, guards)}
            continue
        kind = rng.choice(list(ACTIVITIES))
        state = states[name] = {kind: dict(ACTIVITIES[kind]), "timeout_s": 60, "max_visits": rng.randint(1, 4)}
        state["on_done"] = _branches(rng, anywhere, guards)
        if kind == "approval":
            state["on_denied"] = _branches(rng, anywhere, guards)
        if rng.random() < 0.5:
            state["on_exhausted"] = _branches(rng, later, guards)
        for key in ("on_error", *(["on_timeout"] if kind != "approval" else [])):
            if rng.random() < 0.5:
                state[key] = _branches(rng, anywhere, guards)
        if rng.random() < 0.3:
            state["on_interrupted"] = rng.choice(["repeat", *anywhere])
        if rng.random() < 0.3:
            state["assigns"] = rng.choice(["shared", "other"])
    states["stopped"] = {"final": True, "outcome": rng.choice(["completed", "failed"])}
    return {"name": "random", "initial": "s0", "budget": {"max_wall_s": 600}, "states": states}


def _branches(rng: random.Random, targets: list[str], guards: tuple[str, ...]) -> str | list[Raw]:
    if not guards or rng.random() < 0.5:
        return rng.choice(targets)
    chosen = rng.sample(guards, rng.randint(1, min(3, len(guards))))
    return [*({"when": guard, "to": rng.choice(targets)} for guard in chosen), {"to": rng.choice(targets)}]
