"""Executes small workflows in every possible way, with real counters: an adversary chooses each ending and branch.

It shares no code with the static rules, which look at the graph only.
"""

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

Raw = dict[str, Any]
Fact = tuple[str, str]

SCHEMA = {"type": "object", "properties": {"good": {"type": "boolean"}}, "required": ["good"]}
FORMS: dict[str, Raw] = {
    "turn": {"prompt": "work"},
    "command": {"run": ["echo"], "stdin": ""},
    "agent": {"name": "child", "parameters": {"prompt": ""}},
    "approval": {"question": "Go on?"},
}
TEXTS = {"turn": ("prompt",), "command": ("stdin",), "agent": ("parameters", "prompt"), "approval": ("question",)}
ENDINGS = {
    "turn": {"done": {"result"}, "error": {"result"}, "timeout": set[str]()},
    "command": {ending: {"exit_code", "stdout", "stderr"} for ending in ("done", "error", "timeout")},
    "agent": {"done": {"result", "session_id"}, "error": {"result", "session_id"}, "timeout": set[str]()},
    "approval": {ending: {"by", "comment", "at"} for ending in ("done", "denied", "error")},
}
CONFIGURATIONS_LIMIT = 60_000


class TooLarge(Exception):
    """There are too many ways."""


class Verdict(NamedTuple):
    missing: frozenset[tuple[str, str]]
    """The place of each use of a value that may not exist, and the value with its field: `review.data`."""
    is_endless: bool
    """Whether the adversary can keep the workflow from ending."""


class Configuration(NamedTuple):
    state: str
    counts: tuple[tuple[str, int], ...]
    facts: frozenset[Fact]


def random_workflow(rng: random.Random) -> Raw:
    """Return a workflow that deviates from no other rule than the two. Each bounded state has two visits or more."""
    names = [f"s{number}" for number in range(rng.randint(2, 5))]
    kinds = {name: rng.choice([*FORMS, *FORMS, "choice"]) for name in names}
    kinds["s0"] = rng.choice([*FORMS])
    # Most lead onwards, so that many workflows end.
    backward = rng.choice([0.05, 0.2, 0.5])
    sharing = rng.choice([0, 0.3, 0.8])
    states: Raw = {name: _state(rng, name, names, kinds[name], backward, sharing) for name in names}
    known = sorted(
        {fact for name, state in states.items() if kinds[name] != "choice" for fact in _all_facts(name, state)}
    )
    frequency = rng.choice([0.1, 0.3, 0.6])
    for name, state in states.items():
        if kinds[name] != "choice" and rng.random() < frequency:
            inner: Any = state[kinds[name]]
            *outer, last = TEXTS[kinds[name]]
            for key in outer:
                inner = inner[key]
            inner[last] = f"use ${{{'.'.join(rng.choice(known))}}}"
        for key in [key for key in state if key.startswith("on_") and isinstance(state[key], list)]:
            is_own = kinds[name] != "choice" and key != "on_exhausted" and rng.random() < 0.8
            state[key][0]["when"] = f"{state.get('assigns', name) if is_own else rng.choice(known)[0]}.ok"
    raw: Raw = {"name": "random", "initial": "s0", "budget": {"max_wall_s": 9}, "states": states}
    if rng.random() < 0.3:
        raw["result"] = {"text": f"${{{'.'.join(rng.choice(known))}}}"}
    return raw


def _state(rng: random.Random, name: str, names: list[str], kind: str, backward: float, sharing: float) -> Raw:
    number = names.index(name)

    def target() -> str:
        ends = ["completed", "failed"]
        if rng.random() < backward:
            return rng.choice(names)
        return rng.choice(names[number + 1 :] or ends) if rng.random() < 0.8 else rng.choice(ends)

    def targets() -> Any:
        return target() if rng.random() < 0.7 else [{"when": "", "to": target()}, {"to": target()}]

    state: Raw = {"on_done": targets()}
    if kind == "choice":
        return state
    form = FORMS[kind]
    state[kind] = {key: dict(it) if isinstance(it, dict) else it for key, it in form.items()}
    if kind == "approval":
        state |= {"timeout_s": 9, "on_denied": targets()}
    else:
        state |= {"on_timeout": targets(), "timeout_s": 9} if rng.random() < 0.2 else {}
        if rng.random() < 0.2:
            state["on_interrupted"] = target()
        if rng.random() < 0.4:
            state["schema"] = SCHEMA
    if rng.random() < 0.4:
        state["on_error"] = targets()
    if rng.random() < 0.4:
        state["max_visits"] = rng.randint(2, 3)
        if rng.random() < 0.8:
            state["on_exhausted"] = targets()
    if rng.random() < sharing:
        state["assigns"] = "shared"
    return state


def _all_facts(name: str, state: Raw) -> Iterator[Fact]:
    for ending in ENDINGS[kind_of(state)]:
        yield from _assigned(name, state, ending)


def kind_of(state: Raw) -> str:
    return next((kind for kind in FORMS if kind in state), "choice")


def _assigned(name: str, state: Raw, ending: str) -> set[Fact]:
    fields = {"ok", "error", *ENDINGS[kind_of(state)][ending]}
    if ending == "done" and "schema" in state:
        fields.add("data")
    return {(state.get("assigns", name), field) for field in fields}


def verdict(raw: Raw) -> Verdict:
    """Return what can happen. Raises `TooLarge`."""
    oracle = _Oracle(raw)
    start = Configuration(raw["initial"], (), frozenset())
    onward: dict[Configuration, list[Configuration]] = {}
    waiting = [start]
    while waiting:
        here = waiting.pop()
        if here in onward:
            continue
        if len(onward) >= CONFIGURATIONS_LIMIT:
            raise TooLarge
        onward[here] = oracle.next(here)
        waiting += onward[here]
    return Verdict(frozenset(oracle.missing), _has_cycle(onward))


class _Oracle:
    def __init__(self, raw: Raw) -> None:
        self._raw = raw
        self._states: Raw = raw["states"]
        self.missing: set[tuple[str, str]] = set()

    def next(self, here: Configuration) -> list[Configuration]:
        name = here.state
        if name in ("completed", "failed"):
            if name == "completed" and "result" in self._raw:
                self._use("result.text", self._raw["result"]["text"], here.facts)
            return []
        state = self._states[name]
        kind = kind_of(state)
        if kind == "choice":
            return self._follow(name, "on_done", here.counts, here.facts)
        counts = dict(here.counts)
        if "max_visits" in state:
            if counts.get(name, 0) == state["max_visits"]:
                return self._follow(name, "on_exhausted", here.counts, here.facts)
            counts[name] = counts.get(name, 0) + 1
        now = tuple(sorted(counts.items()))
        place, inner = f"states.{name}.{kind}", state[kind]
        for key in TEXTS[kind]:
            place, inner = f"{place}.{key}", inner[key]
        self._use(place, inner, here.facts)
        following = [Configuration(state["on_interrupted"], now, here.facts)] if "on_interrupted" in state else []
        for ending in ENDINGS[kind]:
            value = state.get("assigns", name)
            kept = frozenset(fact for fact in here.facts if fact[0] != value)
            following += self._follow(name, f"on_{ending}", now, kept | _assigned(name, state, ending))
        return following

    def _follow(self, name: str, key: str, counts: Any, facts: frozenset[Fact]) -> list[Configuration]:
        branches = self._states[name].get(key, "failed")
        if isinstance(branches, str):
            return [Configuration(branches, counts, facts)]
        for number, branch in enumerate(branches):
            if "when" in branch:
                self._need(f"states.{name}.{key}[{number}].when", branch["when"], facts)
        return [Configuration(branch["to"], counts, facts) for branch in branches]

    def _use(self, place: str, template: str, facts: frozenset[Fact]) -> None:
        if "${" in template:
            self._need(place, template.partition("${")[2].partition("}")[0], facts)

    def _need(self, place: str, path: str, facts: frozenset[Fact]) -> None:
        name, field = path.split(".")
        if (name, field) not in facts:
            self.missing.add((place, path))


def _has_cycle(onward: dict[Configuration, list[Configuration]]) -> bool:
    """Whether nodes are left after removing those without successors again and again."""
    before: dict[Configuration, list[Configuration]] = {}
    for node, targets in onward.items():
        for target in targets:
            before.setdefault(target, []).append(node)
    left = {node: len(targets) for node, targets in onward.items()}
    ended = [node for node, count in left.items() if count == 0]
    removed = 0
    while ended:
        node = ended.pop()
        removed += 1
        for source in before.get(node, ()):
            left[source] -= 1
            if left[source] == 0:
                ended.append(source)
    return removed < len(onward)
