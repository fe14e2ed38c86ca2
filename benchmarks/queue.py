"""Measures the coordinator's queue under many runners, many queued runs and a long history.

    python -m benchmarks.queue [herd | claims]

The coordinator is a process of its own with a database on disk, and its clients speak HTTP to it. Each figure is
relative to a floor that the same run measures: the same work without idle runners, queue or history. The exit code is 1
if a figure exceeds its bound.
"""

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from benchmarks.claim_latency import DEMANDS, Claim, HttpClaims, Percentiles, StoreClaims, measured
from benchmarks.filled_database import fill
from benchmarks.overhead import Figure, resident_mb
from benchmarks.plain_http import Connection, register

IDLE_RUNNERS = (100, 400)
RUNS = 150
ROUNDS = 4
STORE_ROUNDS = 12
HOSTNAME, PROFILE = "active", "active"
START_LIMIT_S = 60


class Size(msgspec.Struct, frozen=True):
    finished: int
    queued: int

    def __str__(self) -> str:
        return f"{self.queued:,} queued, {self.finished:,} finished"


SIZES = (Size(1_000, 0), Size(1_000, 100_000), Size(1_000_000, 100_000))
"""Sizes of the database. The first one is the floor of the others."""


@asynccontextmanager
async def started(*module_and_arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, bytes]]:
    """Yield a process of this interpreter, with the first line that it prints."""
    command, pipe = [sys.executable, "-m", *module_and_arguments], asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=asyncio.subprocess.STDOUT)
    assert process.stdout is not None
    try:
        yield process, await asyncio.wait_for(process.stdout.readline(), START_LIMIT_S)
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def coordinator(database: Path) -> AsyncIterator[tuple[str, int]]:
    """Yield its URL and process id."""
    async with started("fsm_runner", "coordinator", "--port", "0", "--database", str(database)) as (process, line):
        yield line.decode().split()[2].rstrip(","), process.pid


async def herd() -> list[Figure]:
    """Measure one active runner beside runners that may not claim its runs."""
    counts = (0, *IDLE_RUNNERS)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fsm-runner-queue-")))
        urls = {}
        for count in counts:
            urls[count], _ = await stack.enter_async_context(coordinator(folder / f"{count}.sqlite"))
            if count:
                await stack.enter_async_context(started("benchmarks.idle_runners", urls[count], str(count)))
        # In turn, because a machine's speed varies. Interference by other programs only lowers a rate.
        rates = [{count: await active_rate(urls[count]) for count in counts} for _ in range(ROUNDS)]
    best_rates = {count: max(each[count] for each in rates) for count in counts}
    shares = {count: 100 * best_rates[count] / best_rates[0] for count in IDLE_RUNNERS}
    return [
        Figure(f"throughput beside {count} idle runners", share, "% of floor", "at least 80", share >= 80)
        for count, share in shares.items()
    ]


async def active_rate(url: str) -> float:
    """Return the runs per second of one runner. Each run wakes its held poll, and has four reports."""
    client, poller, reporter = [await Connection.open(url) for _ in range(3)]
    runner_id = await register(poller, HOSTNAME, PROFILE)
    begin = time.perf_counter()
    for _ in range(RUNS):
        poll = asyncio.create_task(poller.call("GET", f"/runner/runs?runner_id={runner_id}"))
        await submit(client)
        await report(reporter, (await poll)["run"], runner_id)
    rate = RUNS / (time.perf_counter() - begin)
    await client.call("DELETE", f"/runners/{runner_id}?self=true")
    for connection in (client, poller, reporter):
        await connection.aclose()
    return rate


async def submit(client: Connection) -> None:
    demands = {"executor_profile": PROFILE}
    run = {"type": "start_session", "parameters": {"prompt": "hello"}, "additional_demands": demands}
    await client.call("POST", "/runs", run)


async def report(reporter: Connection, run: dict[str, str], runner_id: str) -> None:
    run_url, session_id, sender = f"/runner/runs/{run['run_id']}", run["session_id"], {"runner_id": runner_id}
    bind = {"executor_session_id": "e", "hostname": HOSTNAME, "executor_profile": PROFILE}
    event = {"event_type": "message", "session_id": session_id, "timestamp": "2026-01-01T00:00:00.000000Z"}
    await reporter.call("POST", f"{run_url}/started", sender)
    await reporter.call("POST", f"/sessions/{session_id}/bind", bind)
    await reporter.call("POST", f"/sessions/{session_id}/events", event)
    await reporter.call("POST", f"{run_url}/completed", {**sender, "status": "success", "session_status": "finished"})


async def claims() -> list[Figure]:
    """Measure claims, and the memory of the coordinator, with several sizes of the queue and of the history."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fsm-runner-queue-")))
        files = {size: folder / f"{size.finished}-{size.queued}.sqlite" for size in SIZES}
        for size, file in files.items():
            await asyncio.to_thread(fill, file, finished=size.finished, queued=size.queued, demands=DEMANDS)
        async with AsyncExitStack() as stores:
            in_store = {size: await stores.enter_async_context(StoreClaims(file)) for size, file in files.items()}
            store_ms = await best({size: each.claim for size, each in in_store.items()}, STORE_ROUNDS)
        served = {size: await stack.enter_async_context(coordinator(file)) for size, file in files.items()}
        over_http = {size: await stack.enter_async_context(HttpClaims(url)) for size, (url, _) in served.items()}
        http_ms = await best({size: each.claim for size, each in over_http.items()}, ROUNDS)
        resident = {size: resident_mb(pid) for size, (_, pid) in served.items()}
    floor, *others = SIZES
    figures = []
    for size in others:
        for place, measured_ms in (("store claim", store_ms), ("HTTP claim", http_ms)):
            for name in ("p50", "p99"):
                ratio = getattr(measured_ms[size], name) / getattr(measured_ms[floor], name)
                figures.append(Figure(f"{place}, {name}, {size}", ratio, "x floor", "below 2", ratio < 2))
        ratio = resident[size] / resident[floor]
        figures.append(Figure(f"memory, {size}", ratio, "x floor", "below 1.3", ratio < 1.3))
    return figures


async def best(by_size: dict[Size, Claim], rounds: int) -> dict[Size, Percentiles]:
    """Measure the sizes in turn, because a machine's speed varies."""
    found = {size: await measured(claim) for size, claim in by_size.items()}
    for _ in range(rounds - 1):
        for size, claim in by_size.items():
            found[size] = found[size].better(await measured(claim))
    return found


def main() -> int:
    chosen = sys.argv[1:] or list(PARTS)
    measured_figures = [figure for name in chosen for figure in asyncio.run(PARTS[name]())]
    for figure in measured_figures:
        print(figure)
    return 0 if all(figure.kept for figure in measured_figures) else 1


PARTS = {"herd": herd, "claims": claims}

if __name__ == "__main__":
    sys.exit(main())
