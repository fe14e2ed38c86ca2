"""The runner of a soak, in a process of its own, so that the soak measures only the runner.

    python -m benchmarks.soak_runner COORDINATOR_URL FOLDER RUNS

FOLDER has `home`, `state` and `project`. For each line on stdin it prints the number of its tasks. SIGTERM ends it.
"""

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fsm_runner.app.build import assembled_runner
from fsm_runner.cli.signals import DRAIN_FIRST, post_on_signals
from fsm_runner.config.profiles import load_profile
from fsm_runner.config.settings import RunnerConfig
from fsm_runner.diagnostics.logs import configure_logs
from fsm_runner.diagnostics.redaction import Redactor
from fsm_runner.journal import flusher
from fsm_runner.journal.journal import Journal
from fsm_runner.journal.limits import PRUNE_INTERVAL_S, RetentionLimits

JOURNAL_BYTES_A_RUN = 100
"""The journal's size limit per run of the soak. A run takes about 1,600 bytes, so the journal reaches its limit after
one sixteenth of the runs."""
PRUNED_TIMES = 50
RUNS_A_SECOND = 40
"""An estimate that determines the time between two prunings."""
POOL_THREADS = 6


def bound_journal(runs: int) -> None:
    """Lower the limits of the journal, which it would otherwise reach only after months."""
    defaults = Journal.__init__.__kwdefaults__
    assert defaults is not None
    assert "limits" in defaults
    defaults["limits"] = RetentionLimits(size_bytes=runs * JOURNAL_BYTES_A_RUN)
    assert hasattr(flusher, "PRUNE_INTERVAL_S")
    flusher.PRUNE_INTERVAL_S = min(PRUNE_INTERVAL_S, runs / PRUNED_TIMES / RUNS_A_SECOND)


async def print_task_counts() -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        print(len(asyncio.all_tasks()), flush=True)


async def fill_thread_pool() -> None:
    """Start all threads of the pool now. The loop would start them over minutes, which would look like a leak."""
    barrier = threading.Barrier(POOL_THREADS)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(POOL_THREADS))
    await asyncio.gather(*(asyncio.to_thread(barrier.wait) for _ in range(POOL_THREADS)))


async def main() -> None:
    url, folder, runs = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    configure_logs(Redactor(), verbose=False)
    bound_journal(runs)
    await fill_thread_pool()
    config = RunnerConfig(
        coordinator_url=url, profile="soak", project_dir=folder / "project", state_dir=folder / "state", max_runs=None
    )
    async with assembled_runner(config, load_profile("soak"), url) as runner:
        printer = asyncio.create_task(print_task_counts(), name="task counts")
        with post_on_signals(runner, DRAIN_FIRST):
            await runner.live()
        printer.cancel()


if __name__ == "__main__":
    asyncio.run(main())
