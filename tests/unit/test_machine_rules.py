"""Each rule: the smallest change to a sound spec that breaks it, and the message with its line."""

import copy
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fsm_runner.machine.check import check, checked
from fsm_runner.machine.defects import SpecError
from fsm_runner.machine.rules import RULES
from fsm_runner.machine.spec import ActorInterface, Spec
from fsm_runner.runtime.actors.interfaces import ACTOR_INTERFACES
from tests.support.specs import check_file, load

SPECS = Path(__file__).parents[2] / "specs"
DOCS = Path(__file__).parents[2] / "docs" / "machines.md"

SOUND = """\
name = "door"
initial = "closed"
[events]
pushed = "Someone pushes."
[states.closed]
[states.moving]
invoke = "open_door"
timeout_s = "patience_s"
retry = { times = 2, base_s = 1, cap_s = 2 }
on_done = "opened"
on_error = "jammed"
on_timeout = "too_slow"
ignore = ["pushed"]
[states.done]
final = true
outcome = "open"
tone = "good"
[[transitions]]
from = "closed"
event = "pushed"
to = "moving"
[[transitions]]
from = ["moving"]
event = "opened"
to = "done"
guard = "is_wide"
decides = "open"
[[transitions]]
from = "moving"
event = "opened"
to = "closed"
[[transitions]]
from = "moving"
event = "jammed"
to = "closed"
[[transitions]]
from = "moving"
event = "too_slow"
to = "closed"
[tags]
safe = "No one gets hurt."
[groups.shut]
states = ["closed", "moving"]
tags = ["safe"]
"""

INTERFACE = ActorInterface(
    name="door",
    activities=frozenset({"open_door"}),
    facts=frozenset({"is_wide"}),
    settings=frozenset({"patience_s"}),
    events=frozenset({"pushed"}),
    tags=frozenset({"safe"}),
    outcomes=frozenset({"open"}),
)

WAY = '[[transitions]]\nfrom = "{}"\nevent = "{}"\nto = "{}"\n'

BROKEN = {
    "other machine": ('name = "door"', 'name = "gate"', '1: name: must be "door", like the file'),
    "blank name": (
        '"open_door"',
        '" "',
        '7: states.moving.invoke: the name " " is blank, or begins or ends with a space',
    ),
    "name over lines": (
        "[states.done]",
        '[states."do\\nne"]',
        '14: states."do\\nne": the name "do\\nne" contains control characters or line breaks',
    ),
    "reserved state": (
        "[states.done]",
        '[states."*"]',
        '14: states."*": "*" is reserved and cannot be the name of a state or group',
    ),
    "initial": (
        'initial = "closed"',
        'initial = "close"',
        '2: initial: "close" is not a state (did you mean "closed"?)',
    ),
    "from": (
        'from = ["moving"]',
        'from = ["moving", "nowhere"]',
        '23: transitions[1].from: "nowhere" is neither a state nor a group',
    ),
    "to": ('to = "done"', 'to = "nowhere"', '25: transitions[1].to: "nowhere" is not a state'),
    "empty from": (
        'from = ["moving"]',
        "from = []",
        "23: transitions[1].from: is empty: a transition needs a source",
    ),
    "from twice": (
        'from = ["moving"]',
        'from = ["moving", "moving"]',
        '23: transitions[1].from: names "moving" more than once',
    ),
    "unknown event": (
        'event = "pushed"',
        'event = "pushd"',
        '20: transitions[0].event: "pushd" is not in [events], and "closed" does not cause it (did you mean "pushed"?)',
    ),
    "end of another state": (
        'event = "pushed"',
        'event = "opened"',
        '20: transitions[0].event: "opened" is not in [events], and "closed" does not cause it',
    ),
    "unknown ignored event": (
        'ignore = ["pushed"]',
        'ignore = ["pushed", "rain"]',
        '13: states.moving.ignore[1]: "rain" is not in [events], and "moving" does not cause it',
    ),
    "own event ignored": (
        'ignore = ["pushed"]',
        'ignore = [\n"pushed",\n"jammed"]',
        '15: states.moving.ignore[1]: this state itself causes "jammed", which needs a transition',
    ),
    "ignored twice": (
        'ignore = ["pushed"]',
        'ignore = ["pushed", "pushed"]',
        '13: states.moving.ignore: names "pushed" more than once',
    ),
    "decides": (
        'decides = "open"',
        'decides = "opne"',
        '27: transitions[1].decides: "opne" is the outcome of no final state (did you mean "open"?)',
    ),
    "final that works": (
        "final = true",
        'final = true\ninvoke = "open_door"',
        "16: states.done.invoke: has no meaning in a final state",
    ),
    "final that ignores": (
        "final = true",
        'final = true\nignore = ["pushed"]',
        "16: states.done.ignore: has no meaning in a final state",
    ),
    "final without outcome": ('outcome = "open"', "", "14: states.done: a final state needs `outcome`"),
    "final without tone": (
        'tone = "good"',
        "",
        "14: states.done: a final state needs `tone`",
    ),
    "provisional without outcome": (
        'decides = "open"',
        "provisional = true",
        "27: transitions[1].provisional: needs `decides`",
    ),
    "unknown tag": (
        'tags = ["safe"]',
        'tags = ["safe", "sane"]',
        '44: groups.shut.tags[1]: "sane" is not in [tags] (did you mean "safe"?)',
    ),
    "tag twice": (
        'tags = ["safe"]',
        'tags = ["safe", "safe"]',
        '44: groups.shut.tags: names "safe" more than once',
    ),
    "unused tag": ('tags = ["safe"]', "", "41: tags.safe: no state has this tag"),
    "tag that the actor does not know": (
        "[tags]",
        '[tags]\nwild = ""',
        '41: tags.wild: "wild" is not one of the tags of this machine\'s actor; it has safe',
    ),
    "tag that the actor needs": (
        'safe = "No one gets hurt."',
        "",
        '40: tags: the actor of this machine looks for "safe", which is not declared',
    ),
    "outcome that the actor does not know": (
        'outcome = "open"',
        'outcome = "ajar"',
        '16: states.done.outcome: "ajar" is not one of the outcomes of this machine\'s actor; it has open',
    ),
    "outcome that the actor needs": (
        'outcome = "open"',
        'outcome = "ajar"',
        '5: states: the actor of this machine needs a final state with the outcome "open"',
    ),
    "unused answer of a group": (
        'states = ["closed", "moving"]',
        'states = ["closed", "moving"]\nignore = ["pushed"]',
        '44: groups.shut.ignore[0]: never applies: each member of "shut" has an answer of its own to "pushed"',
    ),
    "unused transition of a group": (
        "[tags]",
        WAY.format("shut", "pushed", "closed") + "[tags]",
        '40: transitions[5]: never applies: each member of "shut" has an answer of its own to "pushed"',
    ),
    "outcome without final": (
        "[states.closed]",
        '[states.closed]\noutcome = "open"',
        "6: states.closed.outcome: only a final state has `outcome`",
    ),
    "work without on_error": (
        'on_error = "jammed"\n',
        "",
        "7: states.moving.invoke: needs `on_error`",
    ),
    "work without limit": (
        'timeout_s = "patience_s"\n',
        "",
        "7: states.moving.invoke: needs `timeout_s`",
    ),
    "retry without work": (
        "[states.closed]",
        "[states.closed]\nretry = { times = 1, base_s = 1, cap_s = 1 }",
        "6: states.closed.retry: needs `invoke`",
    ),
    "limit without event": (
        "[states.closed]",
        "[states.closed]\ntimeout_s = 1",
        "6: states.closed.timeout_s: needs `on_timeout`",
    ),
    "event without limit": (
        'timeout_s = "patience_s"\n',
        "",
        "11: states.moving.on_timeout: needs `timeout_s`",
    ),
    "own event declared": (
        "[events]",
        '[events]\njammed = ""',
        '12: states.moving.on_error: "jammed" is in [events] too: an event from outside needs a name of its own',
    ),
    "retry bounds": ("cap_s = 2", "cap_s = 0.5", "9: states.moving.retry.cap_s: is below base_s (0.5 < 1)"),
    "unreachable": (
        "[states.done]",
        '[states.island]\nignore = ["pushed"]\n[states.done]',
        '14: states.island: cannot be reached from the initial state "closed"',
    ),
    "trap": ('to = "done"', 'to = "closed"', "5: states.closed: no final state can be reached from here"),
    "no end at all": (
        'final = true\noutcome = "open"\ntone = "good"',
        'ignore = ["pushed"]',
        "5: states: no state is final: the machine never ends",
    ),
    "way out of a final state": (
        'from = ["moving"]',
        'from = ["moving", "done"]',
        '23: transitions[1].from: "done" is final: no transition starts from it',
    ),
    "main path with a gap": (
        'event = "jammed"',
        'event = "jammed"\nmain = true',
        "35: transitions[3].main: no transitions with `main` lead here from the initial state",
    ),
    "main cycle apart from the initial state": (
        'event = "jammed"\nto = "closed"',
        'event = "jammed"\nto = "moving"\nmain = true',
        "36: transitions[3].main: no transitions with `main` lead here from the initial state",
    ),
    "event without answer": (
        'ignore = ["pushed"]\n',
        "",
        '6: states.moving: has no answer to "pushed": it needs a transition or a place in `ignore` or `reject`',
    ),
    "two answers": (
        "[[transitions]]",
        WAY.format("moving", "pushed", "closed") + "[[transitions]]",
        '13: states.moving.ignore: "pushed" is here, and has a transition',
    ),
    "end that leads nowhere": (
        'event = "too_slow"',
        'event = "jammed"',
        '12: states.moving.on_timeout: "too_slow" has no transition',
    ),
    "same guard twice": (
        'to = "closed"',
        'to = "closed"\nguard = "is_wide"',
        '32: transitions[2].guard: is never taken: an earlier transition for "opened" in "moving" has this guard',
    ),
    "behind one without a guard": (
        'guard = "is_wide"\n',
        "",
        '27: transitions[2]: is never taken: an earlier transition for "opened" in "moving" has no guard',
    ),
    "no last resort": (
        'to = "moving"',
        'to = "moving"\nguard = "is_wide"',
        '22: transitions[0].guard: "pushed" in "closed" is undecided if no guard holds:'
        " the last transition must have no guard",
    ),
    "unknown activity": (
        '"open_door"',
        '"close_door"',
        '7: states.moving.invoke: "close_door" is not one of the activities of this machine\'s actor'
        ' (did you mean "open_door"?)',
    ),
    "unknown guard": (
        '"is_wide"',
        '"wet"',
        '26: transitions[1].guard: "wet" is not one of the guards of this machine\'s actor;'
        " it has is_wide, outcome_is_open",
    ),
    "unknown setting": (
        '"patience_s"',
        '"mood"',
        '8: states.moving.timeout_s: "mood" is not one of the settings of this machine\'s actor; it has patience_s',
    ),
    "event never posted": (
        "[events]",
        '[events]\nrain = ""',
        '4: events.rain: "rain" is not one of the events of this machine\'s actor; it has pushed',
    ),
    "event not declared": (
        'pushed = "Someone',
        'kicked = "Someone',
        '3: events: the actor of this machine posts "pushed", which is not declared',
    ),
}


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    return tmp_path / "door.toml"


def test_the_sound_spec_has_no_defect(spec_file: Path) -> None:
    spec_file.write_text(SOUND)
    assert check_file(spec_file, INTERFACE) == ()
    assert checked(spec_file, INTERFACE) == load(spec_file)


@pytest.mark.parametrize(("old", "new", "expected"), BROKEN.values(), ids=BROKEN)
def test_a_broken_spec_is_reported_with_its_line(spec_file: Path, old: str, new: str, expected: str) -> None:
    assert old in SOUND
    spec_file.write_text(SOUND.replace(old, new, 1))
    assert f"{spec_file}:{expected}" in [str(defect) for defect in check_file(spec_file, INTERFACE)]
    with pytest.raises(SpecError) as caught:
        checked(spec_file, INTERFACE)
    assert expected in str(caught.value)


def test_without_an_interface_the_names_that_an_actor_must_know_are_free(spec_file: Path) -> None:
    spec_file.write_text(SOUND.replace("open_door", "fly").replace("is_wide", "is_mad").replace("patience_s", "mood_s"))
    assert len(check_file(spec_file, INTERFACE)) == 3
    assert check_file(spec_file) == ()


def test_defects_are_sorted_by_line_and_unique(spec_file: Path) -> None:
    spec_file.write_text(
        SOUND.replace("is_wide", "x").replace('to = "done"', 'to = "x"').replace("cap_s = 2", "cap_s = 0.5")
    )
    defects = check_file(spec_file, INTERFACE)
    lines = [defect.line or 0 for defect in defects]
    assert lines == sorted(lines)
    assert len(set(defects)) == len(defects) > 2


def test_a_spec_without_a_file_has_defects_without_lines(spec_file: Path) -> None:
    spec_file.write_text(SOUND.replace("cap_s = 2", "cap_s = 0.5"))
    assert [str(defect) for defect in check(load(spec_file))] == [
        "states.moving.retry.cap_s: is below base_s (0.5 < 1)"
    ]


def test_a_main_path_apart_from_the_initial_state_has_one_finding(spec_file: Path) -> None:
    broken = SOUND.replace('from = ["moving"]', 'from = "moving"\nmain = true').replace(
        '"jammed"\nto', '"jammed"\nmain = true\nto'
    )
    spec_file.write_text(broken)
    assert [defect.place for defect in check_file(spec_file)] == ["transitions[1].main"]
    spec_file.write_text(broken.replace('to = "moving"', 'to = "moving"\nmain = true'))
    assert check_file(spec_file) == ()
    spec_file.write_text(broken.replace('initial = "closed"', 'initial = "close"'))
    assert [defect.place for defect in check_file(spec_file)] == ["initial"]


def test_format_and_rules_are_checked_together_and_no_mistake_is_reported_twice(spec_file: Path) -> None:
    broken = SOUND.replace('on_error = "jammed"', "on_error = 3").replace('to = "moving"', 'to = "nowhere"')
    spec_file.write_text(broken)
    assert [str(defect) for defect in check_file(spec_file, INTERFACE)] == [
        f"{spec_file}:11: states.moving.on_error: must be a text that is not empty, not 3",
        f'{spec_file}:21: transitions[0].to: "nowhere" is not a state',
    ]


def test_the_index_of_a_transition_counts_undecodable_ones(spec_file: Path) -> None:
    spec_file.write_text(SOUND.replace('event = "pushed"', "event = 1").replace('to = "done"', 'to = "nowhere"'))
    places = [defect.place for defect in check_file(spec_file)]
    assert places == ["transitions[0].event", "transitions[1].to"]


@pytest.mark.parametrize("name", sorted(ACTOR_INTERFACES))
def test_the_programs_own_specs_are_sound(name: str) -> None:
    assert check_file(SPECS / f"{name}.toml", ACTOR_INTERFACES[name]) == ()
    assert load(SPECS / f"{name}.toml").name == name


def test_the_example_in_the_documentation_is_sound(spec_file: Path) -> None:
    spec_file.write_text(DOCS.read_text().split("```toml\n")[1].split("```")[0])
    assert check_file(spec_file) == ()


def test_each_rule_is_in_the_documentation() -> None:
    documented = DOCS.read_text()
    assert [rule.find.__name__ for rule in RULES if f"| `{rule.find.__name__}` |" not in documented] == []


def _with_one_misspelt_reference(raw: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each name that refers to something, and the spec with that name misspelt there."""
    for index, transition in enumerate(raw["transitions"]):
        for key in ("from", "event", "to"):
            names = [transition[key]] if isinstance(transition[key], str) else transition[key]
            for place, name in enumerate(names):
                changed = copy.deepcopy(raw)
                changed["transitions"][index][key] = [*names[:place], f"{name}x", *names[place + 1 :]]
                if key != "from":
                    changed["transitions"][index][key] = f"{name}x"
                yield name, changed
    for group in raw.get("groups", ()):
        yield from _misspelt_in_lists(raw, ("groups", group))
    for state, fields in raw["states"].items():
        yield from _misspelt_in_lists(raw, ("states", state))
        for key in ("on_done", "on_error", "on_timeout"):
            if (name := fields.get(key)) is not None:
                changed = copy.deepcopy(raw)
                changed["states"][state][key] = f"{name}x"
                yield name, changed
    for part in ("events", "tags"):
        for name, doc in raw.get(part, {}).items():
            changed = copy.deepcopy(raw)
            del changed[part][name]
            changed[part][f"{name}x"] = doc
            yield name, changed


def _misspelt_in_lists(raw: dict[str, Any], at: tuple[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    part, answering = at
    for key in {"ignore", "reject", "tags", "states"} & raw[part][answering].keys():
        for place, name in enumerate(raw[part][answering][key]):
            changed = copy.deepcopy(raw)
            changed[part][answering][key][place] = f"{name}x"
            yield name, changed


@pytest.mark.parametrize("machine", sorted(ACTOR_INTERFACES))
def test_a_misspelt_name_is_reported_without_its_consequences(machine: str) -> None:
    raw = tomllib.loads((SPECS / f"{machine}.toml").read_text())
    for name, changed in _with_one_misspelt_reference(raw):
        defects = [str(defect) for defect in check(msgspec.convert(changed, Spec), ACTOR_INTERFACES[machine])]
        assert defects, name
        assert [defect for defect in defects if f"{name}x" not in defect] == []
