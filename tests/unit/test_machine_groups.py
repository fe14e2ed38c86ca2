"""Groups: the answers and tags that a state inherits, and the engine's use of them."""

import tomllib
from pathlib import Path

import pytest

from fsm_runner.machine.decoder import decode
from fsm_runner.machine.engine import Answer, Cause, Machine, Step
from fsm_runner.machine.groups import flatten
from fsm_runner.machine.spec import Spec
from tests.support.specs import check_file, load

LIFT = """\
name = "lift"
initial = "waiting"
[events]
called = "Someone wants to ride."
alarm = "Someone pulls the alarm."
power_lost = "There is no current."
[tags]
serves = "It takes calls."
[states.waiting]
reject = ["alarm"]
[states.moving]
invoke = "move"
timeout_s = 60
on_done = "arrived"
on_error = "jammed"
on_timeout = "jammed"
tags = ["serves"]
[states.broken]
ignore = ["power_lost"]
[states.scrapped]
final = true
outcome = "scrapped"
tone = "bad"
[groups.working]
doc = "In service."
states = ["waiting", "moving"]
ignore = ["alarm"]
tags = ["serves"]
[groups.standing]
states = ["working", "broken", "scrapped"]
reject = ["called"]
[[transitions]]
from = "waiting"
event = "called"
to = "moving"
[[transitions]]
from = "moving"
event = "arrived"
to = "waiting"
[[transitions]]
from = "working"
event = "jammed"
to = "broken"
decides = "scrapped"
provisional = true
[[transitions]]
from = "standing"
event = "power_lost"
to = "scrapped"
decides = "scrapped"
[[transitions]]
from = "broken"
event = "alarm"
to = "scrapped"
"""


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    file = tmp_path / "lift.toml"
    file.write_text(LIFT)
    assert check_file(file) == ()
    return load(file)


def test_a_state_inherits_tags_and_the_answers_that_it_lacks(spec: Spec) -> None:
    flat = flatten(spec)
    assert {name: (it.ignore, it.reject, it.tags) for name, it in flat.states.items()} == {
        "waiting": ((), ("alarm",), ("serves",)),
        "moving": (("alarm",), ("called",), ("serves",)),
        "broken": (("power_lost",), ("called",), ()),
        "scrapped": ((), (), ()),
    }
    assert flatten(flat) == flat


def test_a_transition_of_a_group_starts_from_each_member_without_an_answer_of_its_own(spec: Spec) -> None:
    sources = [way.sources for way in flatten(spec).transitions]
    assert sources == [("waiting",), ("moving",), ("moving",), ("waiting", "moving"), ("broken",)]


def test_the_innermost_answer_wins_whatever_its_kind() -> None:
    raw = tomllib.loads(LIFT)
    raw["groups"]["working"]["ignore"].append("power_lost")
    flat = flatten(decode(raw).spec)
    assert flat.transitions[3].sources == ()
    assert flat.states["moving"].ignore == ("alarm", "power_lost")
    machine = Machine(flat)
    assert machine.fire(machine.model(), "power_lost").answer is Answer.IGNORED


def test_a_machine_has_the_answers_of_its_groups(spec: Spec) -> None:
    machine = Machine(spec)
    model = machine.model()
    assert machine.fire(model, "alarm") == Step("alarm", "waiting", "waiting", Answer.REJECTED, "alarm")
    assert machine.fire(model, "called").taken
    assert machine.fire(model, "called").answer is Answer.REJECTED
    assert machine.fire(model, "alarm").answer is Answer.IGNORED
    assert machine.fire(model, "jammed", Cause.TIMEOUT).cause is Cause.TIMEOUT
    assert (model.state, model.outcome, model.provisional) == ("broken", "scrapped", True)
    machine.fire(model, "alarm")
    assert machine.fire(model, "called").answer is Answer.IGNORED


def test_an_outcome_is_provisional_only_if_the_transition_that_decided_it_is(spec: Spec) -> None:
    machine = Machine(spec)
    model = machine.model()
    machine.fire(model, "power_lost")
    assert (model.outcome, model.provisional) == ("scrapped", False)


def test_the_cause_of_a_states_own_event_is_found_by_its_name(spec: Spec) -> None:
    machine = Machine(spec)
    for event, cause in (("arrived", Cause.DONE), ("jammed", Cause.ERROR), ("power_lost", "power_lost")):
        model = machine.model()
        machine.fire(model, "called")
        assert machine.fire(model, event).cause == cause


def test_a_state_and_a_model_have_tags(spec: Spec) -> None:
    machine = Machine(spec)
    assert machine.has_tag(machine.model(), "serves")
    assert machine.has_tag("moving", "serves")
    assert not machine.has_tag("broken", "serves")
    assert not machine.has_tag("no such state", "serves")


BROKEN = {
    "unknown member": (
        '"waiting", "moving"]',
        '"waiting", "movin"]',
        '26: groups.working.states[1]: "movin" is neither a state nor a group (did you mean "moving"?)',
    ),
    "no member": ('states = ["waiting", "moving"]', "", "24: groups.working: has no members"),
    "two groups": (
        '"working", "broken"',
        '"working", "moving", "broken"',
        '30: groups.standing.states[1]: "moving" is in the group "working" already',
    ),
    "member twice": (
        '"waiting", "moving"]',
        '"waiting", "moving", "moving"]',
        '26: groups.working.states[2]: "moving" is in the group "working" already',
    ),
    "cycle": (
        '"waiting", "moving"]',
        '"waiting", "moving", "standing"]',
        '26: groups.working.states: "working" contains itself',
    ),
    "named as a state": ("[groups.working]", "[groups.moving]", '24: groups.moving: "moving" is the name of a state'),
    "target is a group": (
        'to = "moving"',
        'to = "working"',
        '35: transitions[0].to: "working" is a group; a transition leads to a state',
    ),
    "initial is a group": (
        'initial = "waiting"',
        'initial = "working"',
        '2: initial: "working" is a group; a machine starts in a state',
    ),
    "unused answer in a group with a final member": (
        '"working", "broken"',
        '"broken"',
        '46: transitions[3]: never applies: each member of "standing" that is not final has an answer of its own'
        ' to "power_lost"',
    ),
    "unknown source": (
        'from = "working"',
        'from = "workin"',
        '41: transitions[2].from: "workin" is neither a state nor a group (did you mean "working"?)',
    ),
    "unknown event of a group": (
        'event = "jammed"',
        'event = "jamed"',
        '42: transitions[2].event: "jamed" is not in [events], and "working" does not cause it',
    ),
    "two answers of a group": (
        'reject = ["called"]',
        'reject = ["called", "power_lost"]',
        '31: groups.standing.reject: "power_lost" is here, and has a transition',
    ),
    "unknown event rejected": (
        'reject = ["called"]',
        'reject = ["call"]',
        '31: groups.standing.reject[0]: "call" is not in [events], and "standing" does not cause it',
    ),
    "incomplete choice of a group": (
        'decides = "scrapped"\nprovisional = true',
        'guard = "is_old"',
        '44: transitions[2].guard: "jammed" in "working" is undecided if no guard holds:',
    ),
    "tone of an unknown kind": (
        'tone = "bad"',
        'tone = "sad"',
        '23: states.scrapped.tone: must be "bad", "good" or "neutral", not "sad"',
    ),
}


@pytest.mark.parametrize(("old", "new", "expected"), BROKEN.values(), ids=BROKEN)
def test_a_broken_group_is_reported_with_the_line_in_the_file(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    assert old in LIFT
    file = tmp_path / "lift.toml"
    file.write_text(LIFT.replace(old, new, 1))
    found = [str(defect).removeprefix(f"{file}:") for defect in check_file(file)]
    assert any(defect.startswith(expected) for defect in found), found


def test_the_answers_of_a_group_with_only_final_members_have_no_findings_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "lift.toml"
    file.write_text(LIFT.replace(', "scrapped"]', "]") + '[groups.over]\nstates = ["scrapped"]\nignore = ["called"]\n')
    assert [str(defect) for defect in check_file(file)] == [
        f"{file}:55: groups.over: has only final members, which inherit no answers: give them its tags and remove it"
    ]
