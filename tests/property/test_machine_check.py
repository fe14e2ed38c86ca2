"""`check` accepts exactly the sound machines, and `read` never fails in another way than it says.

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

from fsm_runner.machine.check import check, check_file
from fsm_runner.machine.decoder import decode
from fsm_runner.machine.defects import SpecError
from fsm_runner.machine.spec import ActorInterface, Spec
from fsm_runner.machine.spec_file import read

VOCABULARY = ActorInterface(
    activities=frozenset({"dig", "fill"}),
    guards=frozenset({"is_deep", "is_wet"}),
    settings=frozenset({"patience_s"}),
    events=frozenset({"halt", "rain"}),
)

Raw = dict[str, Any]


# The judge.


def is_sound(raw: Raw, vocabulary: ActorInterface | None) -> bool:
    states, ways = raw["states"], raw["transitions"]
    arrows = [(s, w["event"], w["to"], w.get("guard")) for w in ways for s in sources(w)]
    names_hold = raw["initial"] in states and all(s in states and t in states for s, _, t, _ in arrows)
    if not names_hold or any(name in ("*", "=") for name in states):
        return False
    if any(len(sources(w)) == 0 or len(set(sources(w))) != len(sources(w)) for w in ways):
        return False
    outcomes = [state.get("outcome") for state in states.values() if state.get("final")]
    if any("decides" in w and w["decides"] not in outcomes for w in ways):
        return False
    if vocabulary is not None and not is_spoken(raw, vocabulary):
        return False
    if not all(is_state_sound(name, raw, arrows) for name in states):
        return False
    finals = [name for name in states if states[name].get("final")]
    return all(
        leads(arrows, raw["initial"], name) and any(leads(arrows, name, final) for final in finals) for name in states
    )


def sources(way: Raw) -> list[str]:
    return [way["from"]] if isinstance(way["from"], str) else list(way["from"])


def leads(arrows: list[tuple[str, str, str, str | None]], start: str, goal: str, seen: tuple[str, ...] = ()) -> bool:
    if start == goal:
        return True
    onward = {t for s, _, t, _ in arrows if s == start and t not in seen}
    return any(leads(arrows, state, goal, (*seen, start)) for state in onward)


def is_spoken(raw: Raw, vocabulary: ActorInterface) -> bool:
    states = raw["states"].values()
    return (
        {s["invoke"] for s in states if "invoke" in s} <= vocabulary.activities
        and {w["guard"] for w in raw["transitions"] if "guard" in w} <= vocabulary.guards
        and {s["timeout_s"] for s in states if isinstance(s.get("timeout_s"), str)} <= vocabulary.settings
        and set(raw["events"]) == vocabulary.events
    )


def is_state_sound(name: str, raw: Raw, arrows: list[tuple[str, str, str, str | None]]) -> bool:
    state, events = raw["states"][name], set(raw["events"])
    out = [(e, g) for s, e, _, g in arrows if s == name]
    if state.get("final"):
        return not out and "outcome" in state and not any(state.get(key) for key in set(state) - {"final", "outcome"})
    own = [state[key] for key in ("on_done", "on_error", "on_timeout") if key in state]
    ignored = list(state.get("ignore", []))
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
            set(ignored) <= events and len(set(ignored)) == len(ignored),
            not set(ignored) & set(answers),
            set(ignored) | set(answers) == events | set(own),
            all(g.count(None) == 1 and g[-1] is None and len(set(g)) == len(g) for g in answers.values()),
        ]
    )


# Sound machines, and ways to break one.


def sound(rng: random.Random) -> Raw:
    """A sound machine: each state can go on to the next, the last are final, everything else goes anywhere."""
    work = [f"w{number}" for number in range(rng.randint(1, 4))]
    finals = [f"f{number}" for number in range(rng.randint(1, 2))]
    everything = work + finals
    raw: Raw = {"name": "m", "initial": "w0", "events": {"halt": "", "rain": ""}, "transitions": []}
    raw["states"] = {name: working_state(rng, name) for name in work}
    raw["states"] |= {name: {"final": True, "outcome": f"o_{name}"} for name in finals}
    for number, name in enumerate(work):
        needed = [work[number + 1]] if number + 1 < len(work) else list(finals)
        state = raw["states"][name]
        own = [state[key] for key in ("on_done", "on_error", "on_timeout") if key in state]
        mentioned = [*dict.fromkeys(own), *(e for e in raw["events"] if e not in state["ignore"])]
        if not mentioned:
            state["ignore"].remove("halt")
            mentioned = ["halt"]
        raw["transitions"] += transitions(rng, name, mentioned, needed, everything, finals)
    return raw


def working_state(rng: random.Random, name: str) -> Raw:
    state: Raw = {"ignore": [event for event in ("halt", "rain") if rng.random() < 0.4]}
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
            guards = ["is_deep", None]
        for index, guard in enumerate(guards):
            target = needed[index] if number == 0 and index < len(needed) else rng.choice(everything)
            way: Raw = {"from": rng.choice([name, [name]]), "event": happening, "to": target}
            if guard is not None:
                way["guard"] = guard
            if rng.random() < 0.2:
                way["decides"] = f"o_{rng.choice(finals)}"
            found.append(way)
    return found


def mutate(rng: random.Random, raw: Raw) -> str:
    """Change one thing; what comes out may be unsound or not."""
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
            ("decides", "nothing"),
            ("decides", "o_f0"),
        ]
    )
    way[key] = value


def _other(rng: random.Random, raw: Raw, name: str, state: Raw, way: Raw) -> None:
    match rng.randrange(11):
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
        case 10:
            for key in {"on_done", "on_error", "on_timeout"} & set(state):
                rename_event(raw, name, key, "halt")


def rename(raw: Raw, old: str, new: str) -> None:
    raw["states"] = {new if name == old else name: state for name, state in raw["states"].items()}
    raw["initial"] = new if raw["initial"] == old else raw["initial"]
    for way in raw["transitions"]:
        way["from"] = [new if name == old else name for name in sources(way)]
        way["to"] = new if way["to"] == old else way["to"]


def rename_event(raw: Raw, name: str, key: str, new: str) -> None:
    """Let a state end with another event, and drop what it did with that before."""
    old, state = raw["states"][name][key], raw["states"][name]
    state[key] = new
    state["ignore"] = [event for event in state.get("ignore", []) if event != new]
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
def test_check_accepts_exactly_what_the_judge_does(seed: int, mutations: int, speaks: bool) -> None:
    raw = specimen(seed, mutations)
    vocabulary = VOCABULARY if speaks else None
    judgement = is_sound(raw, vocabulary)
    event(f"{mutations} mutations, {'sound' if judgement else 'broken'}")
    defects = check(msgspec.convert(raw, Spec), vocabulary)
    assert (defects == ()) == judgement, [str(defect) for defect in defects]


def test_an_unmutated_machine_is_sound_and_the_mutated_are_of_both_kinds() -> None:
    assert all(is_sound(specimen(seed, 0), VOCABULARY) for seed in range(300))
    kinds = Counter(is_sound(specimen(seed, 1), VOCABULARY) for seed in range(600))
    assert kinds[True] > 60 and kinds[False] > 200


def test_the_mutations_bring_out_every_rule() -> None:
    from fsm_runner.machine.rules import RULES
    from fsm_runner.machine.rules.case import Case

    broken: Counter[str] = Counter()
    for seed in range(4000):
        case = Case(msgspec.convert(specimen(seed, 1 + seed % 3), Spec), VOCABULARY)
        broken.update(rule.find.__name__ for rule in RULES if any(rule.find(case)))
    assert {rule.find.__name__ for rule in RULES} - set(broken) == {"name_is_one_line", "groups_form_a_tree"}


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
        "final": st.booleans(),
        "outcome": free_names,
    },
)
free_ways = st.fixed_dictionaries(
    {"from": free_names | st.lists(free_names, max_size=3), "event": free_names, "to": free_names},
    optional={"guard": free_names, "decides": free_names},
)
free_specs = st.fixed_dictionaries(
    {
        "name": st.just("m"),
        "initial": free_names,
        "events": st.dictionaries(st.sampled_from(["halt", "e"]), st.just(""), max_size=2),
        "states": st.dictionaries(free_names, free_states, max_size=4),
        "transitions": st.lists(free_ways, max_size=5),
    }
)


@settings(max_examples=300, deadline=None)
@given(free_specs)
@example(
    {"name": "m", "initial": "a", "events": {}, "states": {"a": {"final": True, "outcome": "c"}}, "transitions": []}
)
def test_check_agrees_with_the_judge_on_machines_made_of_anything(raw: Raw) -> None:
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
def test_a_spec_with_anything_anywhere_is_decoded_or_has_defects(seed: int, replacement: Any, where: int) -> None:
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
def test_any_bytes_are_a_source_or_a_spec_error(tmp_path: Path, content: bytes) -> None:
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
