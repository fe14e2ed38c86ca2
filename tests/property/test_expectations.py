"""Any list of expectations, and any result, is either understood or refused."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fsm_runner.executors.interface import RunRefused
from fsm_runner.protocol.expectations import EXPECTATIONS, expectations_of
from fsm_runner.protocol.wire import Agent, Run
from fsm_runner.reporting.session_channel import ExecutorEvent
from fsm_runner.runtime.expectations import ExpectationContext, Unfulfilled

known = st.sampled_from(sorted(EXPECTATIONS))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def run_of(**blueprint: Any) -> Run:
    return Run(run_id="run_1", session_id="ses_1", agent_name="a", resolved_agent_blueprint={"name": "a", **blueprint})


@given(st.lists(known))
def test_known_values_are_a_set(listed: list[str]) -> None:
    assert expectations_of(listed) == set(listed)


@given(st.lists(known), st.text().filter(lambda text: text not in EXPECTATIONS), st.lists(st.text()))
def test_the_first_unknown_value_is_named(before: list[str], unknown: str, after: list[str]) -> None:
    with pytest.raises(ValueError, match="is not one of changes, result, data") as refused:
        expectations_of([*before, unknown, *after])
    assert str(refused.value).startswith(repr(unknown))


@given(values, values)
def test_an_agent_of_a_coordinator_is_understood_or_refused(listed: Any, schema: Any) -> None:
    context = ExpectationContext(of_profile=frozenset({"result"}))
    try:
        wanted = context.of_run(run_of(expect=listed, output_schema=schema)).wanted
    except RunRefused as refusal:
        assert "expect: " in str(refusal)
    else:
        assert wanted == ({"result"} if listed is None else set(listed))
        assert "data" not in wanted or isinstance(schema, dict)


@given(st.none() | st.lists(known), st.none() | st.lists(known), st.lists(known))
def test_the_agent_comes_before_the_profile_and_the_coordinator_before_the_own_file(
    sent: list[str] | None, own: list[str] | None, of_profile: list[str]
) -> None:
    agent = Agent(name="a", expect=own, output_schema={})
    context = ExpectationContext(of_profile=expectations_of(of_profile), agents={"a": agent})
    first = next(listed for listed in (sent, own, of_profile) if listed is not None)
    assert context.of_run(run_of(expect=sent)).wanted == set(first)


def is_empty(value: Any) -> bool:
    return value is None or value in ({}, []) or (isinstance(value, str) and not value.strip())


@given(st.lists(st.tuples(values, values), max_size=3))
async def test_the_last_result_counts(results: list[tuple[Any, Any]]) -> None:
    expectations = ExpectationContext(of_profile=frozenset({"result"})).of_run(run_of())
    for text, data in results:
        raw = [msgspec.Raw(json.dumps(value).encode()) for value in (text, data)]
        expectations.note_event(ExecutorEvent("result", result_text=raw[0], result_data=raw[1]))
        expectations.note_event(ExecutorEvent("message", "assistant"))
    try:
        await expectations.check(Path("/"))
    except Unfulfilled:
        assert not results or all(map(is_empty, results[-1]))
    else:
        assert not all(map(is_empty, results[-1]))


async def test_without_a_recorded_state_nothing_is_claimed_about_changes() -> None:
    expectations = ExpectationContext(of_profile=frozenset({"changes"})).of_run(run_of())
    with pytest.raises(Unfulfilled, match="is unknown: the journal has no state of the repository before the run"):
        await expectations.check(Path("/"))
