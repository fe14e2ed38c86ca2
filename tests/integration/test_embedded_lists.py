"""Lists of runs and sessions: pages, filters and their limit (docs/queue.md)."""

from itertools import chain
from typing import Any

import msgspec
import pytest

from fsm_runner.coordinator_server.store.sqlite import sessions, store
from tests.support.embedded import EmbeddedCoordinator, autonomous, embedded_coordinator


async def pages(coordinator: EmbeddedCoordinator, path: str, key: str, **query: Any) -> list[list[str]]:
    """Return the ids on each page."""
    found: list[list[str]] = []
    after: dict[str, str] = {}
    while True:
        answer = (await coordinator.http.get(path, params={**query, **after})).json()
        found.append([entry["run_id" if key == "runs" else "session_id"] for entry in answer[key]])
        assert "truncated" not in answer
        if "next" not in answer:
            return found
        after = {"after": answer["next"]}
        assert isinstance(answer["next"], str)


async def ids(coordinator: EmbeddedCoordinator, **query: Any) -> list[str]:
    return [run["run_id"] for run in (await coordinator.http.get("/runs", params=query)).json()["runs"]]


async def test_a_list_has_pages_with_the_newest_entry_first() -> None:
    async with embedded_coordinator() as coordinator:
        runs = [await coordinator.prompt() for _ in range(5)]
        newest = [run["run_id"] for run in reversed(runs)]
        assert await ids(coordinator) == newest[::-1]
        assert await pages(coordinator, "/runs", "runs", limit=2) == [newest[:2], newest[2:4], newest[4:]]
        assert await pages(coordinator, "/runs", "runs", limit=5) == [newest]
        newest = [run["session_id"] for run in reversed(runs)]
        assert await pages(coordinator, "/sessions", "sessions", limit=3) == [newest[:3], newest[3:]]


async def test_runs_are_filtered() -> None:
    async with embedded_coordinator() as coordinator:
        runner_id, echo_id = await coordinator.register(**autonomous()), await coordinator.register(hostname="echo")
        first, second = await coordinator.prompt(), await coordinator.prompt(additional_demands={"tags": ["gpu"]})
        third = await coordinator.submit()
        await coordinator.claim(runner_id)
        await coordinator.claim(echo_id)
        made_at = (await coordinator.http.get(f"/runs/{second['run_id']}")).json()["created_at"]
        for query, expected in [
            ({"runner_id": runner_id}, [first]),
            ({"status": "claimed", "runner_id": echo_id}, [third]),
            ({"status": "claimed"}, [first, third]),
            ({"agent_name": "echo"}, [third]),
            ({"tag": "gpu"}, [second]),
            ({"created_after": made_at}, [third]),
            ({"created_after": "2026-01-01T00:00:00+02:00", "tag": "none"}, []),
        ]:
            assert await ids(coordinator, **query) == [run["run_id"] for run in expected], query
            paged = await pages(coordinator, "/runs", "runs", limit=1, **query)
            assert list(chain(*paged)) == [run["run_id"] for run in reversed(expected)], query


@pytest.mark.parametrize(
    ("path", "query", "name"),
    [
        *(("/runs", f"limit={value}", "limit") for value in ("0", "1001", "x", "-1", "")),
        ("/runs", "limit=1&after=x", "after"),
        ("/runs", "created_after=2026-01-01", "created_after"),
        ("/runs", "created_after=today", "created_after"),
        ("/sessions", "limit=0", "limit"),
    ],
)
async def test_an_invalid_page_or_filter_names_the_parameter(path: str, query: str, name: str) -> None:
    async with embedded_coordinator() as coordinator:
        answer = await coordinator.http.get(f"{path}?{query}")
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["query", name]


async def test_a_list_without_pages_and_the_start_of_a_stream_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (store, sessions):
        monkeypatch.setattr(module, "LIST_LIMIT", 2)
    async with embedded_coordinator() as coordinator:
        runner_id = await coordinator.register(**autonomous())
        runs = [await coordinator.prompt() for _ in range(3)]
        answer = (await coordinator.http.get("/runs")).json()
        assert [run["run_id"] for run in answer["runs"]] == [run["run_id"] for run in runs[1:]]
        assert answer["truncated"] is True
        answer = (await coordinator.http.get("/sessions")).json()
        assert [entry["session_id"] for entry in answer["sessions"]] == [runs[2]["session_id"], runs[1]["session_id"]]
        assert answer["truncated"] is True
        for _ in runs:
            await coordinator.claim(runner_id)
        # A runner finds its lost claims in this list.
        answer = (await coordinator.http.get("/runs", params={"status": "claimed"})).json()
        assert ([run["run_id"] for run in answer["runs"]], "truncated" in answer) == (
            [each["run_id"] for each in runs],
            False,
        )
        for query, number, truncated in (("", 2, True), (f"?session_id={runs[0]['session_id']}", 1, None)):
            async with coordinator.http.stream("GET", f"/sse/sessions{query}") as stream:
                async for line in stream.aiter_lines():
                    if line.startswith("data: "):
                        init = msgspec.json.decode(line.removeprefix("data: "))
                        break
            assert (len(init["sessions"]), init.get("truncated")) == (number, truncated)
