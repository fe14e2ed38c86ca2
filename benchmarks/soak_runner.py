"""The runner of a soak, in a process of its own: what is measured is the runner alone.

    python -m benchmarks.soak_runner COORDINATOR_URL FOLDER RUNS

FOLDER holds `home`, `state` and `project`. For each line on stdin the number of its tasks is printed. SIGTERM ends it.
"""

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fsm_runner.app.build import assembled_runner
from fsm_runner.cli.signals import ending_signals
from fsm_runner.config.profiles import load_profile
from fsm_runner.config.settings import RunnerConfig
from fsm_runner.diagnostics.logs import configure_logs
from fsm_runner.diagnostics.redaction import Redactor
from fsm_runner.journal import flusher
from fsm_runner.journal.journal import Journal
from fsm_runner.journal.limits import PRUNE_EACH_S, RetentionLimits

JOURNAL_BYTES_A_RUN = 100
"""So much the journal may keep for each run of the soak, of some 1,600 bytes that a run takes: its bound is met when
one run of sixteen has ended, long before the first third has."""
PRUNED_TIMES = 50
RUNS_A_SECOND = 40
"""A guess, for the time between two prunings."""
POOL_THREADS = 6


def bound_journal(runs: int) -> None:
    """In place of the limits that a journal meets after months."""
    defaults: dict[str, object] = Journal.open.__func__.__kwdefaults__  # type: ignore[attr-defined] # of a classmethod
    assert "limits" in defaults
    defaults["limits"] = RetentionLimits(size_bytes=runs * JOURNAL_BYTES_A_RUN)
    assert hasattr(flusher, "PRUNE_EACH_S")
    flusher.PRUNE_EACH_S = min(PRUNE_EACH_S, runs / PRUNED_TIMES / RUNS_A_SECOND)


async def tell_tasks() -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        print(len(asyncio.all_tasks()), flush=True)


async def fill_thread_pool() -> None:
    """The loop starts threads when it needs them, over minutes: all of them now, so that one more is a leak."""
    everyone = threading.Barrier(POOL_THREADS)
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(POOL_THREADS))
    await asyncio.gather(*(asyncio.to_thread(everyone.wait) for _ in range(POOL_THREADS)))


async def main() -> None:
    url, folder, runs = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    configure_logs(Redactor(), verbose=False)
    bound_journal(runs)
    await fill_thread_pool()
    config = RunnerConfig(
        coordinator_url=url, profile="soak", project_dir=folder / "project", state_dir=folder / "state", max_runs=None
    )
    async with assembled_runner(config, load_profile("soak"), url) as runner:
        telling = asyncio.create_task(tell_tasks(), name="telling")
        with ending_signals(runner):
            await runner.live()
        telling.cancel()


if __name__ == "__main__":
    asyncio.run(main())
