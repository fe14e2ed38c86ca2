"""Executors that write without end do not fill the runner's memory."""

import gc
import re
import resource
from pathlib import Path

import pytest

from fsm_runner.process.child.child import OUTPUT_LIMIT_BYTES
from fsm_runner.util.error_text import ERROR_LIMIT_CHARS
from tests.support.command_executor import Step, command_home, scripted_bench

MIB = 1024 * 1024
CHUNK_CHARS = 10_000
FLOOD_CHARS = 50_000_000
LINE = "x" * 79 + "\n"
GROWTH_LIMIT_BYTES = 20 * MIB
FORGET_PEAK, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
"""Only Linux can reset the peak."""
assert GROWTH_LIMIT_BYTES < FLOOD_CHARS / 2
assert OUTPUT_LIMIT_BYTES < GROWTH_LIMIT_BYTES / 2


def flood(step: str, text: str = "x") -> Step:
    return [step, (text * CHUNK_CHARS)[:CHUNK_CHARS], FLOOD_CHARS // CHUNK_CHARS]


class Peak:
    """The growth of the peak memory of this process, which includes the runner."""

    def __init__(self) -> None:
        gc.collect()
        if FORGET_PEAK.exists():
            FORGET_PEAK.write_text("5")
        self._before_bytes = _peak_bytes()

    def growth_bytes(self) -> int:
        return _peak_bytes() - self._before_bytes


def _peak_bytes() -> int:
    if not STATUS.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on systems that have no /proc
    peak = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024


@pytest.mark.parametrize("lifecycle", ["one_shot", "persistent"])
@pytest.mark.parametrize(
    "steps",
    [[flood("complain")], [flood("complain", LINE)], [flood("say"), ["say", "\n"]], [flood("say", LINE)]],
    ids=["stderr", "lines on stderr", "stdout", "lines on stdout"],
)
async def test_a_flood_does_not_fill_the_runner(tmp_path: Path, lifecycle: str, steps: list[Step]) -> None:
    async with scripted_bench(tmp_path, command_home(tmp_path / "home", lifecycle=lifecycle)) as bench:
        first = await bench.start(["bind"], ["report"])
        await bench.completes(first)
        peak = Peak()
        await bench.completes(await bench.resume(first, *steps, ["report"]))
        assert peak.growth_bytes() < GROWTH_LIMIT_BYTES


@pytest.mark.parametrize("lifecycle", ["one_shot", "persistent"])
async def test_the_error_of_a_flood_is_limited(tmp_path: Path, lifecycle: str) -> None:
    async with scripted_bench(tmp_path, command_home(tmp_path / "home", lifecycle=lifecycle)) as bench:
        await bench.completes(await bench.start(["bind"]))
        peak = Peak()
        run = await bench.start(
            ["complain", "the beginning\n"], flood("complain"), ["complain", "\nthe end"], ["exit", 1]
        )
        error = await bench.fails(run)
        assert peak.growth_bytes() < 2 * GROWTH_LIMIT_BYTES
        assert error.startswith("the beginning\n")
        assert re.search(r"\nthe end\n\(exit code 1[^\n]*\)$", error)
        assert len(error) < ERROR_LIMIT_CHARS + 100


async def test_many_turns_of_much_output_leave_nothing_behind(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench:
        first = await bench.start(["bind"])
        await bench.completes(first)
        much: list[Step] = [[step, "x" * CHUNK_CHARS, 2 * MIB // CHUNK_CHARS] for step in ("complain", "say")]
        await bench.completes(await bench.resume(first, *much, ["say", "\n"]))
        peak = Peak()
        for _ in range(20):
            await bench.completes(await bench.resume(first, *much, ["say", "\n"]))
        assert peak.growth_bytes() < GROWTH_LIMIT_BYTES


async def test_a_flood_in_one_session_does_not_delay_another(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench:
        loud = await bench.start(["bind"], *[flood("complain")] * 4)
        quiet = await bench.start(["bind"])
        await bench.completes(quiet)
        for _ in range(5):
            await bench.completes(await bench.resume(quiet))
        await bench.completes(loud)
