"""Properties of the embedded coordinator for arbitrary input."""

import asyncio
import contextlib
import itertools
from typing import Any
from unittest.mock import patch

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fsm_runner.coordinator_server.errors import InvalidField
from fsm_runner.coordinator_server.http.schemas import NESTING_LIMIT, decode_object
from fsm_runner.coordinator_server.matching import Capabilities, Demands, meets
from fsm_runner.coordinator_server.server import CoordinatorServer
from fsm_runner.coordinator_server.submission import fill_placeholders
from fsm_runner.coordinator_server.timings import Timings
from fsm_runner.json_schema import checker
from tests.support.watch import PATIENCE_S

names = st.sampled_from(["a", "b"])
tag_lists = st.lists(st.sampled_from(["x", "y", "z"]), max_size=3, unique=True)
demands = st.fixed_dictionaries(
    {},
    optional={
        "hostname": names,
        "project_dir": names,
        "executor_profile": names,
        "executor_type": names,
        "runner_id": names,
        "tags": tag_lists.map(tuple),
    },
)
runners = st.fixed_dictionaries(
    {
        "runner_id": names,
        "hostname": names,
        "project_dir": names,
        "executor_profile": names,
        "executor_type": names,
        "tags": tag_lists.map(frozenset),
        "require_matching_tags": st.booleans(),
    }
)


@given(demands, runners)
def test_a_runner_may_take_a_run_if_and_only_if_each_demand_is_met(
    demanded: dict[str, Any], offered: dict[str, Any]
) -> None:
    wanted = list(demanded.get("tags", ()))
    expected = all(offered[key] == value for key, value in demanded.items() if key != "tags")
    for tag in wanted:
        expected = expected and tag in offered["tags"]
    if offered["require_matching_tags"]:
        expected = expected and any(ours == theirs for ours, theirs in itertools.product(offered["tags"], wanted))
    assert meets(Capabilities(**offered), Demands(**demanded)) is expected


@given(demands, demands)
def test_merged_demands_have_all_tags_and_keep_the_stronger_properties(
    stronger: dict[str, Any], weaker: dict[str, Any]
) -> None:
    both = Demands(**stronger).merged_with(Demands(**weaker))
    assert set(both.tags) == {*stronger.get("tags", ()), *weaker.get("tags", ())}
    for key in ("hostname", "project_dir", "executor_profile", "executor_type", "runner_id"):
        assert getattr(both, key) == stronger.get(key, weaker.get(key))


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@given(json_values, st.dictionaries(texts, json_values), st.dictionaries(texts, json_values))
def test_a_value_without_placeholders_stays_unchanged(
    value: Any, params: dict[str, Any], scope: dict[str, Any]
) -> None:
    if "${" not in repr(value):
        assert fill_placeholders(value, params, scope) == value


def test_placeholders_are_filled_in_at_any_depth() -> None:
    depth = 900
    value: Any = msgspec.json.decode(b'{"a":[' * (depth // 2) + b'"${params.x}"' + b"]}" * (depth // 2))
    filled = fill_placeholders(value, {"x": "here"}, {})
    assert b'"here"' in msgspec.json.encode(filled)
    assert b"params" in msgspec.json.encode(value)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_an_invalid_field(body: bytes) -> None:
    with contextlib.suppress(InvalidField):
        assert isinstance(decode_object(body), dict)


def test_a_body_may_be_nested_up_to_the_limit() -> None:
    def nested(depth: int) -> bytes:
        return b'{"a":' + b"[" * (depth - 1) + b"1" + b"]" * (depth - 1) + b',"b":"' + b"[" * 1000 + b'"}'

    assert decode_object(nested(NESTING_LIMIT))
    for depth in (NESTING_LIMIT + 1, 900, 100_000):
        with pytest.raises(InvalidField, match="nested too deeply"):
            decode_object(nested(depth))


ids = st.sampled_from(["{run}", "{session}", "{runner}", "echo", "unknown", "..", "%00", "é"])
known_keys = st.sampled_from(
    [
        "runner_id",
        "status",
        "session_status",
        "error",
        "signal",
        "hostname",
        "project_dir",
        "executor_profile",
        "executor",
        "tags",
        "agents",
        "type",
        "command",
        "name",
        "parameters",
        "agent_name",
        "session_id",
        "parent_session_id",
        "execution_mode",
        "additional_demands",
        "scope",
        "demands",
        "event_type",
        "timestamp",
        "result_text",
        "result_data",
        "executor_session_id",
        "last_resumed_at",
        "require_matching_tags",
    ]
)
plausible = st.sampled_from(
    [
        "{runner}",
        "{session}",
        "start_session",
        "resume_session",
        "echo",
        "result",
        "finished",
        "idle",
        "success",
        "sync",
    ]
)
values = plausible | json_values | st.dictionaries(known_keys, plausible | json_values, max_size=4)
bodies = json_values | st.dictionaries(known_keys, values, max_size=8)
requests = st.one_of(
    *(
        st.tuples(st.just(method), st.just(path), ids, bodies)
        for method, path in [
            ("POST", "/runner/register"),
            ("POST", "/runner/runs/{id}/started"),
            ("POST", "/runner/runs/{id}/completed"),
            ("POST", "/runner/runs/{id}/failed"),
            ("POST", "/runner/runs/{id}/stopped"),
            ("POST", "/runner/sessions/{id}/status"),
            ("POST", "/runner/heartbeat"),
            ("GET", "/runner/runs?runner_id={id}"),
            ("DELETE", "/runners/{id}?self=false"),
            ("GET", "/scripts/{id}/download"),
            ("GET", "/agents?tags={id}"),
            ("GET", "/agents/{id}"),
            ("POST", "/runs"),
            ("GET", "/runs?status={id}"),
            ("GET", "/runs/{id}"),
            ("POST", "/runs/{id}/stop"),
            ("GET", "/runners"),
            ("GET", "/sessions"),
            ("GET", "/sessions/{id}"),
            ("GET", "/sessions/{id}/status"),
            ("GET", "/sessions/{id}/result"),
            ("GET", "/sessions/{id}/events"),
            ("POST", "/sessions/{id}/events"),
            ("GET", "/sessions/{id}/affinity"),
            ("POST", "/sessions/{id}/bind"),
            ("PATCH", "/sessions/{id}/metadata"),
            ("POST", "/sessions/{id}/stop"),
            ("DELETE", "/sessions/{id}"),
        ]
    )
)

REGISTRATION = {
    "hostname": "h",
    "project_dir": "/p",
    "executor_profile": "x",
    "executor": {"type": "autonomous", "command": "c"},
    "agents": [{"name": "echo", "type": "autonomous", "command": ""}],
}


def filled_in(value: Any, known: dict[str, str]) -> Any:
    if isinstance(value, str):
        return known.get(value, value)
    if isinstance(value, dict):
        return {key: filled_in(inner, known) for key, inner in value.items()}
    return value


@patch.object(checker, "VALIDATION_LIMIT_S", PATIENCE_S)
async def send_all(sent: list[tuple[str, str, str, Any]]) -> list[httpx.Response]:
    async with (
        CoordinatorServer(port=0, timings=Timings(poll_timeout_s=0.01)) as server,
        httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S) as http,
    ):
        runner_id = (await http.post("/runner/register", json=REGISTRATION)).json()["runner_id"]
        run = (await http.post("/runs", json={"type": "start_session", "parameters": {"prompt": "x"}})).json()
        known = {"{runner}": runner_id, "{run}": run["run_id"], "{session}": run["session_id"]}
        return [
            await http.request(
                method, path.replace("{id}", known.get(name, name)), json=filled_in(body, known), follow_redirects=False
            )
            for method, path, name, body in sent
        ]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(requests, min_size=5, max_size=15))
def test_every_request_is_answered_without_a_server_error(sent: list[tuple[str, str, str, Any]]) -> None:
    for answer in asyncio.run(send_all(sent)):
        assert answer.status_code < 500, f"{answer.request.method} {answer.request.url}: {answer.text}"
        if answer.status_code >= 400:
            assert "detail" in answer.json()
