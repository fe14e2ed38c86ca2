"""Measures the memory of runs whose workflow waits, in a process of its own.

    python -m benchmarks.waiting_workflows COUNT COORDINATOR_URL

Prints the kilobytes that each of COUNT runs adds to the runner's resident memory. The coordinator hands out
`WARM_UP` runs more, whose memory does not count: they load what all runs share.
"""

import asyncio
import gc
import sys
import tempfile
from pathlib import Path

from fsm_runner.app.build import assembled_runner
from fsm_runner.config.profiles import load_profile
from fsm_runner.config.settings import RunnerConfig
from fsm_runner.diagnostics.logs import configure_logs
from fsm_runner.diagnostics.redaction import Redactor
from fsm_runner.protocol.wire import Run
from fsm_runner.runtime.actors.run_context import Observer
from fsm_runner.util import event_loop
from fsm_runner.workflow.file import restore_workflow

WARM_UP = 50
WORKFLOW = """
name = "waits"
initial = "ask"
params = { message = "string" }

[states.ask]
approval = { question = "Continue with ${params.message}?" }
timeout_s = 86400
on_done = "work"
on_denied = "failed"

[states.work]
turn = {}
timeout_s = 60
on_done = "completed"
"""


class Count(Observer):
    """Counts the runs that wait."""

    def __init__(self) -> None:
        self._waiting: set[str] = set()
        self._changed = asyncio.Event()

    def reported(self, run: Run, state: str, detail: str) -> None:
        self._waiting.add(run.run_id)
        self._changed.set()

    async def reaches(self, count: int) -> None:
        while len(self._waiting) < count:
            self._changed.clear()
            await self._changed.wait()


def resident_kb() -> float:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1000


async def measured(count: int, url: str) -> float:
    workflow, waiting = restore_workflow("waits.toml", WORKFLOW, {}), Count()
    with tempfile.TemporaryDirectory(prefix="fsm-runner-waiting-") as state_dir:
        config = RunnerConfig(project_dir=Path.cwd(), state_dir=Path(state_dir))
        async with assembled_runner(config, load_profile("echo"), url, observer=waiting, workflow=workflow) as runner:
            living = asyncio.create_task(runner.live())
            await waiting.reaches(WARM_UP)
            before_kb = resident_kb()
            await waiting.reaches(WARM_UP + count)
            after_kb = resident_kb()
            runner.post("stop_now_requested", "measured")
            await living
    return (after_kb - before_kb) / count


if __name__ == "__main__":
    configure_logs(Redactor(), verbose=False, quiet=True)
    print(event_loop.run(measured(int(sys.argv[1]), sys.argv[2])))
