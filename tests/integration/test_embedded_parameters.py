"""Validation of parameters against agents' schemas: protocol.md, section 1.3."""

import asyncio
import functools
import os
import signal
from typing import Any

import pytest

from fsm_runner.json_schema import checker
from tests.support.embedded import ECHO_AGENT, embedded_coordinator
from tests.support.watch import PATIENCE_S


async def test_parameters_that_do_not_match_the_schema_are_refused_in_detail() -> None:
    async with embedded_coordinator() as coordinator:
        await coordinator.register()
        answer = await coordinator.http.post(
            "/runs", json={"type": "start_session", "agent_name": "echo", "parameters": {"message": 1, "x": 2}}
        )
        assert answer.status_code == 400
        detail = answer.json()["detail"]
        assert detail["error"] == "parameter_validation_failed"
        assert detail["parameters_schema"] == ECHO_AGENT["parameters_schema"]
        assert {error["path"] for error in detail["validation_errors"]} == {"$", "$.message"}
        assert all(error["message"] and error["schema_path"] for error in detail["validation_errors"])
        assert (await coordinator.http.get("/sessions")).json() == {"sessions": []}


def _nested(levels: int) -> dict[str, Any]:
    innermost: dict[str, Any] = {}
    return functools.reduce(lambda inner, _: {"a": inner}, range(levels), innermost)


@pytest.mark.parametrize(
    ("schema", "parameters", "path"),
    [
        ({"properties": {"a": {"pattern": "^(a+)+$"}}}, {"a": "a" * 50 + "!"}, "$.a"),
        ({"properties": {"a": {"pattern": r"^(a|aa)+\1$"}}}, {"a": "a" * 50 + "!"}, "$.a"),
        ({"properties": {"a": {"const": 1}}}, _nested(400), "$"),
        ({"properties": {"a b": {"items": {"type": "string"}}}}, {"a b": ["x", 1]}, '$["a b"][1]'),
    ],
    ids=["pattern", "pattern that refers back", "depth", "names"],
)
async def test_the_validation_of_any_parameters_ends(
    schema: dict[str, Any], parameters: dict[str, Any], path: str
) -> None:
    async with embedded_coordinator() as coordinator:
        await coordinator.register(agents=[{**ECHO_AGENT, "parameters_schema": schema}])
        async with asyncio.timeout(PATIENCE_S):
            answer = await coordinator.http.post(
                "/runs", json={"type": "start_session", "agent_name": "echo", "parameters": parameters}
            )
        assert answer.status_code == 400
        assert [error["path"] for error in answer.json()["detail"]["validation_errors"]] == [path]


def _doubling(steps: int) -> dict[str, Any]:
    """Return a schema whose validation time doubles with each step."""
    defs: dict[str, Any] = {f"s{i}": {"anyOf": [{"$ref": f"#/$defs/s{i + 1}"}] * 2} for i in range(steps)}
    return {"$defs": {**defs, f"s{steps}": {"type": "string"}}, "$ref": "#/$defs/s0"}


async def test_a_schema_of_unlimited_cost_delays_no_other_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker, "VALIDATION_LIMIT_S", 1.0)
    async with embedded_coordinator() as coordinator:
        endless = {**ECHO_AGENT, "name": "endless", "parameters_schema": _doubling(40)}
        await coordinator.register(agents=[endless, ECHO_AGENT])
        body = {"type": "start_session", "agent_name": "endless", "parameters": {}}
        asking = asyncio.create_task(coordinator.http.post("/runs", json=body))
        assert (await coordinator.http.get("/health")).status_code == 200
        answer = await asking
        assert (answer.status_code, answer.json()["detail"]["error"]) == (400, "parameter_validation_failed")
        assert "takes more than 1 s" in answer.json()["detail"]["message"]
        monkeypatch.undo()
        await coordinator.submit()


async def test_a_killed_validation_program_is_started_again() -> None:
    async with embedded_coordinator() as coordinator:
        await coordinator.register()
        await coordinator.submit()
        program = coordinator.inside.validator._checker._program
        assert program is not None
        program._child.kill()
        await program._child.wait()
        await coordinator.submit()


async def test_parameters_are_not_refused_if_the_validation_program_is_killed() -> None:
    async with embedded_coordinator() as coordinator:
        await coordinator.register()
        await coordinator.submit()
        program = coordinator.inside.validator._checker._program
        assert program is not None
        os.kill(program._child.pid, signal.SIGSTOP)
        asking = asyncio.create_task(coordinator.submit())
        async with asyncio.timeout(PATIENCE_S):
            while program._changed.is_set():  # noqa: ASYNC110 - until the program has the request
                await asyncio.sleep(0)
        program._child.kill()
        await asking


async def test_without_an_agent_a_prompt_is_needed() -> None:
    async with embedded_coordinator() as coordinator:
        assert (
            await coordinator.http.post("/runs", json={"type": "start_session", "parameters": {"prompt": "hi"}})
        ).status_code == 201
        answer = await coordinator.http.post("/runs", json={"type": "start_session", "parameters": {"prompt": 1}})
        assert answer.json()["detail"]["error"] == "parameter_validation_failed"


@pytest.mark.parametrize(
    "schema", [{"type": 1}, {"$ref": "http://127.0.0.1:9/x.json"}, {"properties": {"a": {"pattern": "("}}}]
)
async def test_a_broken_schema_is_reported_as_broken(schema: dict[str, Any]) -> None:
    async with embedded_coordinator() as coordinator:
        await coordinator.register(agents=[{**ECHO_AGENT, "parameters_schema": schema}])
        answer = await coordinator.http.post(
            "/runs", json={"type": "start_session", "agent_name": "echo", "parameters": {"a": "b"}}
        )
        assert (answer.status_code, answer.json()["detail"]["error"]) == (400, "invalid_parameters_schema")
