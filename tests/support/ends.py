"""The ends of runs that a coordinator has accepted."""

from collections.abc import Iterable

import httpx

from fsm_runner.protocol.wire import RunCreated


async def reported_ends(url: str, run: RunCreated) -> list[str]:
    """Return the statuses with which the coordinator has ended the run, in order, including its own decisions.

    The coordinator records them, so they include reports whose responses were lost.
    """
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        return (await all_reported_ends(http, [run]))[run.run_id]


async def all_reported_ends(http: httpx.AsyncClient, runs: Iterable[RunCreated]) -> dict[str, list[str]]:
    ends: dict[str, list[str]] = {}
    for run in runs:
        answer = await http.get(f"/sessions/{run.session_id}/events")
        events = [each for each in answer.json()["events"] if each["event_type"] == "run_completed"]
        ends[run.run_id] = [each["status"] for each in events if each["run_id"] == run.run_id]
    return ends
