"""The runner of a soak, in a process of its own: what is measured is the runner alone.

    python -m benchmarks.soak_runner COORDINATOR_URL FOLDER RUNS

FOLDER holds `home`, `state` and `project`. For each line on stdin the number of its tasks is printed. SIGTERM ends it.
"""

import asyncio
import sys
from pathlib import Path

from fsm_runner.assembly import assembled_runner
from fsm_runner.cli.signals import ending_signals
from fsm_runner.config import RunnerConfig
from fsm_runner.journal import flusher
from fsm_runner.journal.journal import Journal
from fsm_runner.journal.limits import PRUNE_EACH_S, KeptLimits
from fsm_runner.logs import configure_logs
from fsm_runner.profiles import load_profile

JOURNAL_BYTES_A_RUN = 400
"""So much the journal may keep for each run of the soak: its bound has to be met long before the end."""
PRUNED_TIMES = 20
RUNS_A_SECOND = 20
"""A guess, for the time between two prunings."""


def bound_journal(runs: int) -> None:
    """In place of the limits that a journal meets after months."""
    defaults: dict[str, object] = Journal.open.__func__.__kwdefaults__  # type: ignore[attr-defined] # of a classmethod
    assert "limits" in defaults
    defaults["limits"] = KeptLimits(size_bytes=runs * JOURNAL_BYTES_A_RUN)
    assert hasattr(flusher, "PRUNE_EACH_S")
    flusher.PRUNE_EACH_S = min(PRUNE_EACH_S, runs / PRUNED_TIMES / RUNS_A_SECOND)


async def tell_tasks() -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while await reader.readline():
        print(len(asyncio.all_tasks()), flush=True)


async def main() -> None:
    url, folder, runs = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    configure_logs(verbose=False)
    bound_journal(runs)
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
