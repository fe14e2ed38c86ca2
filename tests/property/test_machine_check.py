"""`check` accepts exactly the sound machines, and `read` raises nothing but `SpecError`.

The judge below shares nothing with `check`: it looks at the plain dict that a TOML file decodes to, walks paths
naively, and says only yes or no.
"""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from fsm_runner.machine.check import check
from fsm_runner.machine.decoder import decode
from fsm_runner.machine.defects import SpecError
from fsm_runner.machine.spec import ActorInterface, Spec
from fsm_runner.machine.spec_file import read
from tests.support.specs import check_file

INTERFACE = ActorInterface(
    name="m",
    activities=frozenset({"dig", "fill"}),
    facts=frozenset({"is_deep", "is_wet"}),
    settings=frozenset({"patience_s"}),
    events=frozenset({"halt", "rain"}),
    tags=frozenset({"busy", "dry"}),
    outcomes=frozenset({"o_f0", "o_f1"}),
)

Raw = dict[str, Any]

ENDS = ("on_done", "on_error", "on_timeout")
ENDED = {"final", "outcome", "tone", "tags"}
"""The fields of a final state."""


# The judge.


def is_sound(raw: Raw, interface: ActorInterface | None) -> bool:
    levels = levels_of(raw)
    if levels is None or not has_single_answers(raw) or not has_sound_tags(raw, levels):
        return False
    if any(
        all(raw["states"][name].get("final") for name in levels if group in levels[name]) for group in raw["groups"]
    ):
        return False
    used: set[tuple[str, str]] = set()
    raw = expanded(raw, levels, used)
    if not {(group, event) for group in raw["groups"] for event in answers_of(raw, group)} <= used:
        return False
    states, ways = raw["states"], raw["transitions"]
    arrows = [(s, w["event"], w["to"], w.get("guard")) for w in ways for s in w["flat"]]
    names_hold = raw["initial"] in states and all(s in states and t in states for s, _, t, _ in arrows)
    if not names_hold or any(name in ("*", "=") for name in states):
        return False
    if any(len(sources(w)) == 0 or len(set(sources(w))) != len(sources(w)) for w in ways):
        return False
    if any(w.get("provisional") and "decides" not in w for w in ways):
        return False
    main = [w for w in ways if w.get("main")]
    main_arrows = [(s, w["event"], w["to"], w.get("guard")) for w in main for s in w["flat"]]
    if not all(any(leads(main_arrows, raw["initial"], s) for s in w["flat"]) for w in main):
        return False
    outcomes = [state.get("outcome") for state in states.values() if state.get("final")]
    if any("decides" in w and w["decides"] not in outcomes for w in ways):
        return False
    if interface is not None and not is_spoken(raw, interface):
        return False
    if not all(is_state_sound(name, raw, arrows) for name in states):
        return False
    finals = [name for name in states if states[name].get("final")]
    return all(
        leads(arrows, raw["initial"], name) and any(leads(arrows, name, final) for final in finals) for name in states
    )


def sources(way: Raw) -> list[str]:
    return [way["from"]] if isinstance(way["from"], str) else list(way["from"])


def levels_of(raw: Raw) -> dict[str, list[str]] | None:
    """For each state, itself and the groups around it; None if the groups do not form a tree."""
    states, groups = raw["states"], raw["groups"]
    members = [member for group in groups.values() for member in group["states"]]
    if set(groups) & set(states) or len(set(members)) < len(members) or not set(members) <= {*states, *groups}:
        return None
    if not all(group["states"] for group in groups.values()) or "*" in groups:
        return None
    outward = {member: group for group, it in groups.items() for member in it["states"]}
    levels = {}
    for start in (*states, *groups):
        path = [start]
        while (around := outward.get(path[-1])) is not None:
            if around in path:
                return None
            path.append(around)
        levels[start] = path
    return {name: levels[name] for name in states}


def answers_of(raw: Raw, name: str) -> list[str]:
    """Return every event that a state or a group answers, once for each kind of answer."""
    part = raw["states"].get(name) or raw["groups"].get(name, {})
    taken = {way["event"] for way in raw["transitions"] if name in sources(way)}
    return [*part.get("ignore", []), *part.get("reject", []), *taken]


def has_single_answers(raw: Raw) -> bool:
    return all(len(set(found := answers_of(raw, name))) == len(found) for name in (*raw["states"], *raw["groups"]))


def has_sound_tags(raw: Raw, levels: dict[str, list[str]]) -> bool:
    parts = {**raw["states"], **raw["groups"]}
    listed = [part.get("tags", []) for part in parts.values()]
    used = {tag for path in levels.values() for level in path for tag in parts[level].get("tags", [])}
    return used == set(raw["tags"]) >= {tag for tags in listed for tag in tags} and all(
        len(set(tags)) == len(tags) for tags in listed
    )


def expanded(raw: Raw, levels: dict[str, list[str]], used: set[tuple[str, str]]) -> Raw:
    """Return the spec with inherited answers in its states, and the sources of each transition as `flat`."""
    states = {name: dict(state) for name, state in raw["states"].items()}
    own = {name: {state[key] for key in ENDS if key in state} for name, state in states.items()}
    answering: dict[tuple[str, str], str] = {}
    for name, path in levels.items():
        for level in path[:1] if states[name].get("final") else path:
            for answered in answers_of(raw, level):
                inherits = level == name or answered in own[name] or not any(answered in ends for ends in own.values())
                if inherits and (name, answered) not in answering:
                    answering[name, answered] = level
    for (name, answered), level in answering.items():
        used.add((level, answered))
        for key in ("ignore", "reject"):
            if level != name and answered in raw["groups"][level].get(key, []):
                states[name][key] = [*states[name].get(key, []), answered]
    ways = []
    for way in raw["transitions"]:
        inherit = [(n, s) for s in sources(way) for n in states if answering.get((n, way["event"])) == s]
        unknown = [s for s in sources(way) if s not in states and s not in raw["groups"]]
        ways.append({**way, "flat": [*dict.fromkeys(name for name, _ in inherit), *unknown]})
    return {**raw, "states": states, "transitions": ways}


def leads(arrows: list[tuple[str, str, str, str | None]], start: str, goal: str, seen: tuple[str, ...] = ()) -> bool:
    if start == goal:
        return True
    onward = {t for s, _, t, _ in arrows if s == start and t not in seen}
    return any(leads(arrows, state, goal, (*seen, start)) for state in onward)


def is_spoken(raw: Raw, interface: ActorInterface) -> bool:
    states = raw["states"].values()
    return (
        {s["invoke"] for s in states if "invoke" in s} <= interface.activities
        and {w["guard"] for w in raw["transitions"] if "guard" in w} <= interface.guards
        and {s["timeout_s"] for s in states if isinstance(s.get("timeout_s"), str)} <= interface.settings
        and set(raw["events"]) == interface.events
        and set(raw["tags"]) == interface.tags
        and raw["name"] == interface.name
        and {s["outcome"] for s in states if "outcome" in s} == interface.outcomes
    )


def is_state_sound(name: str, raw: Raw, arrows: list[tuple[str, str, str, str | None]]) -> bool:
    state, events = raw["states"][name], set(raw["events"])
    out = [(e, g) for s, e, _, g in arrows if s == name]
    if state.get("final"):
        return not out and {"outcome", "tone"} <= set(state) and not any(state.get(key) for key in set(state) - ENDED)
    own = [state[key] for key in ENDS if key in state]
    ignored = [*state.get("ignore", []), *state.get("reject", [])]
    works = {"on_done", "on_error"} <= set(state) and "timeout_s" in state
    rests = not {"on_done", "on_error", "retry"} & set(state)
    retry = state.get("retry", {"base_s": 1, "cap_s": 1})
    answers = {e: [g for f, g in out if f == e] for e, _ in out}
    return all(
        [
            "outcome" not in state,
            works if "invoke" in state else rests,
            ("timeout_s" in state) == ("on_timeout" in state),
            retry["cap_s"] >= retry["base_s"],
            not set(own) & events,
            set(ignored) <= events,
            set(ignored) | set(answers) == events | set(own),
            all(g.count(None) == 1 and g[-1] is None and len(set(g)) == len(g) for g in answers.values()),
        ]
    )


# Sound machines, and ways to break one.


def sound(rng: random.Random) -> Raw:
    """A sound machine: each state can go on to the next, the last are final, everything else goes anywhere."""
    work = [f"w{number}" for number in range(rng.randint(1, 4))]
    finals = [f"f{number}" for number in range(rng.randint(2, 3))]
    everything = work + finals
    raw: Raw = {"name": "m", "initial": "w0", "events": {"halt": "", "rain": ""}, "transitions": []}
    raw |= {"tags": {"busy": "", "dry": ""}, "groups": {}}
    raw["states"] = {name: working_state(rng, name) for name in work}
    for number, name in enumerate(finals):
        raw["states"][name] = {"final": True, "outcome": f"o_f{min(number, 1)}", "tone": rng.choice(["good", "bad"])}
    for tag in raw["tags"]:
        for name in rng.sample(everything, rng.randint(1, len(everything))):
            raw["states"][name].setdefault("tags", []).append(tag)
    for number, name in enumerate(work):
        needed = [work[number + 1]] if number + 1 < len(work) else list(finals)
        state = raw["states"][name]
        own = [state[key] for key in ("on_done", "on_error", "on_timeout") if key in state]
        silent = state["ignore"] + state["reject"]
        mentioned = [*dict.fromkeys(own), *(e for e in raw["events"] if e not in silent)]
        if not mentioned:
            state["ignore" if "halt" in state["ignore"] else "reject"].remove("halt")
            mentioned = ["halt"]
        raw["transitions"] += transitions(rng, name, mentioned, needed, everything, finals)
    for _ in range(rng.randint(0, 3)):
        add_group(rng, raw)
    return raw


def add_group(rng: random.Random, raw: Raw) -> None:
    """Put some states or groups into a new group unless all are final, and move the answers of one state to it."""
    inside = {member for group in raw["groups"].values() for member in group["states"]}
    free = [name for name in (*raw["states"], *raw["groups"]) if name not in inside]
    members = rng.sample(free, rng.randint(1, len(free)))
    if all(raw["states"].get(member, {}).get("final") for member in members):
        return
    name = f"g{len(raw['groups'])}"
    group: Raw = {"states": members, "ignore": [], "reject": [], "tags": []}
    raw["groups"][name] = group
    if not (working := [member for member in members if "ignore" in raw["states"].get(member, {})]):
        return
    member = rng.choice(working)
    state = raw["states"][member]
    for key in ("ignore", "reject"):
        group[key], state[key] = state[key], []
        for other in (raw["states"][name] for name in working if name != member):
            other[key] = [silent for silent in other[key] if silent not in group[key] or rng.random() < 0.5]
    if rng.random() < 0.5:
        group["tags"] = state.pop("tags", [])
    if rng.random() < 0.5:
        for way in raw["transitions"]:
            if sources(way) == [member]:
                way["from"] = name


def working_state(rng: random.Random, name: str) -> Raw:
    silent = {event: rng.choice(["ignore", "reject"]) for event in ("halt", "rain") if rng.random() < 0.4}
    state: Raw = {key: [event for event in silent if silent[event] == key] for key in ("ignore", "reject")}
    if rng.random() < 0.6:
        error = rng.choice([f"{name}_wrong", f"{name}_done"])
        state |= {"invoke": rng.choice(["dig", "fill"]), "on_done": f"{name}_done", "on_error": error}
        if rng.random() < 0.3:
            state["retry"] = {"times": 2, "base_s": 1, "cap_s": rng.choice([1, 5])}
    if "invoke" in state or rng.random() < 0.3:
        state |= {"timeout_s": rng.choice([1.5, 60, "patience_s"]), "on_timeout": f"{name}_late"}
    return state


def transitions(
    rng: random.Random, name: str, events: list[str], needed: list[str], everything: list[str], finals: list[str]
) -> list[Raw]:
    found: list[Raw] = []
    for number, happening in enumerate(events):
        guards = [*rng.sample(["is_deep", "is_wet"], rng.choice([0, 0, 1, 2])), None]
        if number == 0 and len(needed) > 1:
            guards = [*["is_deep", "is_wet"][: len(needed) - 1], None]
        for index, guard in enumerate(guards):
            target = needed[index] if number == 0 and index < len(needed) else rng.choice(everything)
            way: Raw = {"from": rng.choice([name, [name]]), "event": happening, "to": target}
            if guard is not None:
                way["guard"] = guard
            if rng.random() < 0.2:
                way |= {"decides": rng.choice(["o_f0", "o_f1"]), "provisional": rng.random() < 0.5}
            found.append(way)
    return found


def mutate(rng: random.Random, raw: Raw) -> str:
    """Change one thing. The result may still be sound."""
    name = rng.choice(sorted(raw["states"]))
    state = raw["states"][name]
    way = rng.choice(raw["transitions"])
    kind = rng.choice(sorted(MUTATIONS))
    MUTATIONS[kind](rng, raw, name, state, way)
    return kind


def _drop_key(rng: random.Random, raw: Raw, name: str, state: Raw, way: Raw) -> None:
    if state:
        state.pop(rng.choice(sorted(state)))


def _set_key(rng: random.Random, raw: Raw, name: str, state: Raw, way: Raw) -> None:
    key, value = rng.choice(
        [
            ("final", True),
            ("outcome", "odd"),
            ("tone", "good"),
            ("tags", ["dry", "dry"]),
            ("tags", ["wild"]),
            ("reject", ["halt"]),
            ("reject", ["rain", "rain"]),
            ("invoke", "dig"),
            ("invoke", "fly"),
            ("timeout_s", 3),
            ("timeout_s", "mood_s"),
            ("on_done", "halt"),
            ("on_error", f"{name}_new"),
            ("on_timeout", f"{name}_late"),
            ("retry", {"times": 1, "base_s": 5, "cap_s": 1}),
            ("retry", {"times": 1, "base_s": 1, "cap_s": 1}),
            ("ignore", ["halt", "halt"]),
            ("ignore", ["halt", "rain"]),
            ("ignore", [f"{name}_done"]),
            ("ignore", ["snow"]),
        ]
    )
    state[key] = value


def _change_way(rng: random.Random, raw: Raw, name: str, state: Raw, way: Raw) -> None:
    key, value = rng.choice(
        [
            ("from", name),
            ("from", []),
            ("from", [name, name]),
            ("from", "nowhere"),
            ("from", sorted(raw["states"])),
            ("to", name),
            ("to", "nowhere"),
            ("event", "snow"),
            ("event", "halt"),
            ("guard", "is_deep"),
            ("guard", "is_mad"),
            ("provisional", True),
            ("main", True),
            ("decides", "nothing"),
            ("decides", "o_f0"),
        ]
    )
    way[key] = value


def _other(rng: random.Random, raw: Raw, name: str, state: Raw, way: Raw) -> None:
    match rng.randrange(17):
        case 16:
            raw["name"] = "n"
        case 0:
            raw["initial"] = rng.choice([name, "nowhere"])
        case 1:
            raw["events"].pop("rain", None)
        case 2:
            raw["events"][rng.choice(["snow", f"{name}_done"])] = ""
        case 3:
            raw["states"][rng.choice(["*", "=", "island"])] = {"ignore": ["halt", "rain"]}
        case 4:
            raw["transitions"].remove(way)
        case 5:
            raw["transitions"].insert(0, dict(way))
        case 6:
            way.pop("guard", None)
        case 7:
            rng.shuffle(raw["transitions"])
        case 8:
            rename(raw, name, rng.choice(["*", "=", "two words"]))
        case 9:
            for own in (it for it in raw["transitions"] if name in sources(it)):
                own["to"] = name
        case 11:
            raw["tags"].pop("busy", None)
        case 12:
            raw["tags"]["wild"] = ""
        case 13:
            group = {"states": rng.choice([[], [name], [name, name], ["nowhere"], [name, "club"]])}
            raw["groups"][rng.choice(["club", name, "*"])] = group
        case 14:
            for group in raw["groups"].values():
                key, value = (
                    rng.choice(["ignore", "reject", "states"]),
                    rng.choice(["halt", "rain", "snow", "g0", name]),
                )
                group[key] = [*group.get(key, []), value]
        case 15:
            way["from"] = rng.choice([*raw["groups"], name])
        case 10:
            for key in sorted(set(ENDS) & set(state)):
                rename_event(raw, name, key, "halt")


def rename(raw: Raw, old: str, new: str) -> None:
    raw["states"] = {new if name == old else name: state for name, state in raw["states"].items()}
    for group in raw["groups"].values():
        group["states"] = [new if name == old else name for name in group["states"]]
    raw["initial"] = new if raw["initial"] == old else raw["initial"]
    for way in raw["transitions"]:
        way["from"] = [new if name == old else name for name in sources(way)]
        way["to"] = new if way["to"] == old else way["to"]


def rename_event(raw: Raw, name: str, key: str, new: str) -> None:
    """Let a state cause another event, and remove its former answer to that."""
    old, state = raw["states"][name][key], raw["states"][name]
    state[key] = new
    for silent in ("ignore", "reject"):
        state[silent] = [event for event in state.get(silent, []) if event != new]
    raw["transitions"] = [way for way in raw["transitions"] if not (name in sources(way) and way["event"] == new)]
    for way in raw["transitions"]:
        if name in sources(way) and way["event"] == old:
            way["event"] = new


MUTATIONS = {"drop": _drop_key, "set": _set_key, "way": _change_way, "other": _other}


def specimen(seed: int, mutations: int) -> Raw:
    rng = random.Random(seed)
    raw = sound(rng)
    for _ in range(mutations):
        if raw["states"] and raw["transitions"]:
            mutate(rng, raw)
    return raw


seeds = st.integers(0, 2**32)


@settings(max_examples=600, deadline=None)
@given(seed=seeds, mutations=st.integers(0, 3), speaks=st.booleans())
def test_check_agrees_with_the_judge_on_mutated_machines(seed: int, mutations: int, speaks: bool) -> None:
    raw = specimen(seed, mutations)
    interface = INTERFACE if speaks else None
    judgement = is_sound(raw, interface)
    event(f"{mutations} mutations, {'sound' if judgement else 'broken'}")
    defects = check(msgspec.convert(raw, Spec), interface)
    assert (defects == ()) == judgement, [str(defect) for defect in defects]


def test_unmutated_machines_are_sound_and_some_mutated_ones_are() -> None:
    assert all(is_sound(specimen(seed, 0), INTERFACE) for seed in range(300))
    kinds = Counter(is_sound(specimen(seed, 1), INTERFACE) for seed in range(600))
    assert kinds[True] > 60 and kinds[False] > 200


def test_the_mutations_break_every_rule() -> None:
    from fsm_runner.machine.rules import RULES
    from fsm_runner.machine.rules.context import RuleContext

    broken: Counter[str] = Counter()
    for seed in range(4000):
        context = RuleContext(msgspec.convert(specimen(seed, 1 + seed % 3), Spec), INTERFACE)
        broken.update(rule.find.__name__ for rule in RULES if any(rule.find(context)))
    assert {rule.find.__name__ for rule in RULES} - set(broken) == {"name_is_one_line"}


free_names = st.sampled_from(["a", "b", "c", "e", "g", "halt", "*"])
free_states = st.fixed_dictionaries(
    {},
    optional={
        "invoke": st.just("dig"),
        "timeout_s": st.just(1),
        "on_done": free_names,
        "on_error": free_names,
        "on_timeout": free_names,
        "ignore": st.lists(st.sampled_from(["halt", "e"]), max_size=2),
        "reject": st.lists(st.sampled_from(["halt", "e"]), max_size=1),
        "tags": st.lists(st.just("t"), max_size=1),
        "tone": st.just("bad"),
        "final": st.booleans(),
        "outcome": free_names,
    },
)
free_groups = st.fixed_dictionaries(
    {"states": st.lists(free_names, max_size=3)},
    optional={"ignore": st.lists(st.sampled_from(["halt", "e"]), max_size=1)},
)
free_ways = st.fixed_dictionaries(
    {"from": free_names | st.lists(free_names, max_size=3), "event": free_names, "to": free_names},
    optional={"guard": free_names, "decides": free_names, "provisional": st.booleans(), "main": st.booleans()},
)
free_specs = st.fixed_dictionaries(
    {
        "name": st.just("m"),
        "initial": free_names,
        "events": st.dictionaries(st.sampled_from(["halt", "e"]), st.just(""), max_size=2),
        "tags": st.dictionaries(st.just("t"), st.just(""), max_size=1),
        "groups": st.dictionaries(free_names, free_groups, max_size=2),
        "states": st.dictionaries(free_names, free_states, max_size=4),
        "transitions": st.lists(free_ways, max_size=5),
    }
)


@settings(max_examples=300, deadline=None)
@given(free_specs)
@example(
    {
        "name": "m",
        "initial": "a",
        "events": {},
        "tags": {},
        "groups": {},
        "states": {"a": {"final": True, "outcome": "c", "tone": "bad"}},
        "transitions": [],
    }
)
def test_check_agrees_with_the_judge_on_random_machines(raw: Raw) -> None:
    judgement = is_sound(raw, None)
    event("sound" if judgement else "broken")
    assert (check(msgspec.convert(raw, Spec)) == ()) == judgement


# Reading.

toml_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


def _places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [at, *(place for key, item in inner for place in _places(item, (*at, key)))]


@settings(max_examples=300, deadline=None)
@given(seed=seeds, replacement=toml_values, where=st.integers(0, 10**6))
def test_a_spec_with_a_random_value_is_decoded_or_has_defects(seed: int, replacement: Any, where: int) -> None:
    raw = specimen(seed, 0)
    places = _places(raw)[1:]
    *path, last = places[where % len(places)]
    inner: Any = raw
    for key in path:
        inner = inner[key]
    inner[last] = replacement
    decoded = decode(raw)
    if decoded.problems:
        with pytest.raises(msgspec.ValidationError):
            accepted = msgspec.convert(raw, Spec)
            # msgspec alone lets an endless time limit pass.
            if "inf" in repr(raw):
                raise msgspec.ValidationError(f"{accepted}")
    else:
        assert decoded.spec == msgspec.convert(raw, Spec)


SNIPPETS = ["[events]", "[states.a]", "[[transitions]]", "[transitions.x]", "from = 'a'", "to = [", "]", "final = true"]
SNIPPETS += [
    "name = 'm'",
    "initial = 'a'",
    "states = 3",
    "retry = {times = 1}",
    '"""',
    "ignore = ['x',",
    "a.b = 1",
    "#",
]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=80) | st.lists(st.sampled_from(SNIPPETS), max_size=12).map(lambda it: "\n".join(it).encode()))
@example(b"a = " + b"[" * 5000)
@example(b"a = " + b"9" * 5000)
@example(b"name = 0x" + b"f" * 5000)
@example(b"name = 'm'\r\nstates = inf")
def test_any_bytes_are_a_spec_file_or_a_spec_error(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "spec.toml"
    file.write_bytes(content)
    try:
        source = read(file)
    except SpecError as error:
        assert error.defects
        assert str(error).startswith(str(file))
    else:
        lines = content.count(b"\n") + 1
        assert all(1 <= (defect.line or 0) <= lines for defect in check(source))
        assert check(source) == check_file(file)
