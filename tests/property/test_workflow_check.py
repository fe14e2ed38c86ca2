"""The static rules about values and about the end, against an oracle that executes workflows in every possible way."""

import random
import re
from collections import Counter
from itertools import pairwise
from typing import Any

import msgspec
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from fsm_runner.machine.check import check as check_machine
from fsm_runner.workflow.check import check
from fsm_runner.workflow.definition import Workflow
from fsm_runner.workflow.expansion import expansion_of
from fsm_runner.workflow.file import WorkflowFile
from tests.support.workflow_oracle import Raw, TooLarge, Verdict, random_workflow, verdict

SEEDS = st.integers(0, 2**32)
MISSING, ENDLESS = "does not exist on", "may never end"


def findings(raw: Raw) -> tuple[dict[tuple[str, str], str], list[str]]:
    """Return the findings of the two rules: missing values by place and value, and endless cycles."""
    definition = msgspec.convert(raw, Workflow)
    schemas: Any = {name: state.schema for name, state in definition.states.items() if state.schema is not None}
    found = check(WorkflowFile(path="", text="", definition=definition, schemas=schemas))
    if not found:  # a sound workflow is a sound machine
        assert check_machine(expansion_of(definition).spec) == ()
    others = [it for it in found if not re.search(f"{MISSING}|{ENDLESS}|cannot be reached", it.message)]
    assert others == [], "the generator breaks no other rule"
    missing = {(it.place, it.message.split(" ")[0]): it.message for it in found if MISSING in it.message}
    return missing, [it.message for it in found if ENDLESS in it.message]


def judged(seed: int) -> tuple[Raw, Verdict]:
    raw = random_workflow(random.Random(seed))
    try:
        return raw, verdict(raw)
    except TooLarge:
        assume(False)
        raise


@settings(deadline=None, max_examples=150)
@given(SEEDS)
@example(254)  # A state that is used up was interrupted, and has assigned nothing.
@example(43)  # A state that is used up has assigned a value, which another state has replaced since.
def test_what_may_be_missing_is_found_with_a_path_that_leads_to_it(seed: int) -> None:
    raw, truth = judged(seed)
    found, _ = findings(raw)
    assert truth.missing <= found.keys()
    for use, message in found.items():
        path = message.partition("on the path ")[2].partition(": ")[0].split(" → ")
        assert path[0].split(" ")[0] == raw["initial"]
        for step, target in pairwise(path):
            name, _, event = step.partition(" (")
            key = event.removesuffix(")") or "on_done"
            branches = raw["states"][name].get(key, "failed")
            targets = [branches] if isinstance(branches, str) else [branch["to"] for branch in branches]
            assert target.split(" ")[0] in targets
        # The rule does not count visits. Where no state is exhausted, the path is one that a run can take.
        assert use in truth.missing or "on_exhausted" in message


@settings(deadline=None, max_examples=150)
@given(SEEDS)
def test_what_may_never_end_is_found(seed: int) -> None:
    raw, truth = judged(seed)
    _, found = findings(raw)
    assert bool(found) >= truth.is_endless
    # The rule does not count visits: whether a state can be exhausted at all may depend on another one's.
    assert truth.is_endless or not found or any("max_visits" in state for state in raw["states"].values())


def test_the_generator_writes_sound_and_broken_workflows_and_the_rules_rarely_reject_a_sound_one() -> None:
    seen: Counter[str] = Counter()
    for seed in range(300):
        raw = random_workflow(random.Random(seed))
        try:
            truth = verdict(raw)
        except TooLarge:
            seen["too large"] += 1
            continue
        missing, endless = findings(raw)
        seen["broken" if truth.missing else "sound"] += 1
        seen["endless" if truth.is_endless else "ending"] += 1
        seen["sound and ending"] += not truth.missing and not truth.is_endless
        seen["missing through exhaustion"] += any("on_exhausted" in missing.get(use, "") for use in truth.missing)
        seen["endless through exhaustion"] += truth.is_endless and any("on_exhausted" in it for it in endless)
        seen["false alarm: missing"] += not truth.missing and bool(missing)
        seen["false alarm: endless"] += not truth.is_endless and bool(endless)
    assert min(seen[kind] for kind in ("broken", "sound", "endless", "ending", "sound and ending")) >= 40, seen
    assert min(seen["missing through exhaustion"], seen["endless through exhaustion"]) >= 5, seen
    assert max(seen["false alarm: missing"], seen["false alarm: endless"], seen["too large"]) <= 6, seen
