"""When a run counts as silent, with a clock that jumps."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from fsm_runner.process.child.capture import BoundedCapture
from fsm_runner.process.child.pipes import LastRead
from fsm_runner.runtime.control.silence import LOOKS_PER_LIMIT, SilenceLimit, SilenceWatch
from tests.support.virtual_time import in_virtual_time

LIMIT_S = 100.0
PAUSE_S = LIMIT_S / LOOKS_PER_LIMIT


class FakeProcess:
    """Uses `busy_share` of a processor from `busy_from_s` until `busy_until_s`."""

    def __init__(
        self,
        busy_share: float = 0.0,
        busy_until_s: float = math.inf,
        *,
        busy_from_s: float = 0.0,
        started_cpu_s: float = 0.0,
    ) -> None:
        self.busy_share = busy_share
        self.busy_from_s = busy_from_s
        self.busy_until_s = busy_until_s
        self.started_cpu_s = started_cpu_s
        self.measured_at_s: list[float] = []
        self.fault: OSError | None = None
        self.takes_s = 0.0
        self.output = SimpleNamespace(
            last_read=LastRead(-math.inf, "stdout"), captures=(BoundedCapture(100), BoundedCapture(100))
        )

    async def cpu_s(self) -> float:
        self.measured_at_s.append(now_s())
        await asyncio.sleep(self.takes_s)
        if self.fault is not None:
            raise self.fault
        busy_s = max(0.0, min(now_s(), self.busy_until_s) - self.busy_from_s)
        return self.started_cpu_s + self.busy_share * busy_s

    def write(self, text: str, stream: str = "stdout") -> None:
        self.output.captures[stream == "stderr"].add(text.encode())
        self.output.last_read = LastRead(now_s(), stream)


class Bench:
    """A watched run."""

    def __init__(self, limit: SilenceLimit | None) -> None:
        self.silent_at_s: list[float] = []
        self.errors: list[str] = []
        self.watch = SilenceWatch("run_1", limit, self._end)

    def _end(self, error: str) -> None:
        self.silent_at_s.append(now_s())
        self.errors.append(error)


def now_s() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def watched(process: FakeProcess | None, limit_s: float | None = LIMIT_S) -> AsyncIterator[Bench]:
    bench = Bench(None if limit_s is None else SilenceLimit(limit_s))
    execution: Any = SimpleNamespace(process=process)
    async with bench.watch.over(execution):
        yield bench


@in_virtual_time
async def test_a_silent_run_is_reported_once_and_measured_four_times() -> None:
    process = FakeProcess()
    async with watched(process) as bench:
        await asyncio.sleep(10 * LIMIT_S)
    assert bench.silent_at_s == [LIMIT_S]
    assert process.measured_at_s == [PAUSE_S, 2 * PAUSE_S, 3 * PAUSE_S, LIMIT_S]


def send(bench: Bench, process: FakeProcess) -> None:
    bench.watch.note("message")


def say(bench: Bench, process: FakeProcess) -> None:
    process.write("x")


def complain(bench: Bench, process: FakeProcess) -> None:
    process.write("x", "stderr")


@pytest.mark.parametrize("act", [send, say, complain])
@in_virtual_time
async def test_events_and_output_are_signs_of_work_and_nothing_is_measured(
    act: Callable[[Bench, FakeProcess], None],
) -> None:
    process = FakeProcess()
    async with watched(process) as bench:
        for _ in range(50):
            await asyncio.sleep(PAUSE_S * 0.9)
            act(bench, process)
        assert process.measured_at_s == []
        last_s = now_s()
        await asyncio.sleep(2 * LIMIT_S)
    assert bench.silent_at_s == [pytest.approx(last_s + LIMIT_S)]


@pytest.mark.parametrize("act", [send, say, complain])
@in_virtual_time
async def test_a_sign_just_before_the_limit_starts_it_anew(act: Callable[[Bench, FakeProcess], None]) -> None:
    process = FakeProcess()
    async with watched(process) as bench:
        await asyncio.sleep(LIMIT_S - 1)
        act(bench, process)
        await asyncio.sleep(2 * LIMIT_S)
    assert bench.silent_at_s == [2 * LIMIT_S - 1]


@in_virtual_time
async def test_a_sign_during_the_last_measurement_counts() -> None:
    process = FakeProcess()
    process.takes_s = 2
    async with watched(process) as bench:
        await asyncio.sleep(LIMIT_S + 1)
        assert len(process.measured_at_s) == 4
        process.write("x")
        await asyncio.sleep(LIMIT_S - 1)
        assert bench.silent_at_s == []


@in_virtual_time
async def test_a_busy_process_is_a_sign_of_work() -> None:
    process = FakeProcess(busy_share=0.06)
    async with watched(process) as bench:
        await asyncio.sleep(100 * LIMIT_S)
    assert bench.silent_at_s == []
    assert len(process.measured_at_s) <= 100 * LOOKS_PER_LIMIT


@in_virtual_time
async def test_a_process_that_uses_little_cpu_time_is_not_busy() -> None:
    async with watched(FakeProcess(busy_share=0.04)) as bench:
        await asyncio.sleep(2 * LIMIT_S)
    assert bench.silent_at_s == [LIMIT_S]


@pytest.mark.parametrize("busy_until_s", [10, 24, 30, 60, 99, 250])
@in_virtual_time
async def test_silence_begins_when_the_process_ends_at_most_a_quarter_later(busy_until_s: float) -> None:
    async with watched(FakeProcess(1.0, busy_until_s)) as bench:
        await asyncio.sleep(10 * LIMIT_S)
    (silent_at_s,) = bench.silent_at_s
    assert busy_until_s + LIMIT_S <= silent_at_s <= busy_until_s + LIMIT_S + PAUSE_S


@pytest.mark.parametrize("event_s", [5, 40, 90, 180])
@in_virtual_time
async def test_work_between_an_event_and_the_next_measurement_counts(event_s: float) -> None:
    process = FakeProcess(1.0, busy_until_s=event_s + 10)
    async with watched(process) as bench:
        await asyncio.sleep(event_s)
        bench.watch.note("message")
        await asyncio.sleep(10 * LIMIT_S)
    (silent_at_s,) = bench.silent_at_s
    assert event_s + 10 + LIMIT_S <= silent_at_s <= event_s + 10 + LIMIT_S + PAUSE_S


@in_virtual_time
async def test_work_after_a_long_time_of_events_counts() -> None:
    events, every_s = 1000, PAUSE_S * 0.9
    last_s = events * every_s
    process = FakeProcess(1.0, last_s + 10, busy_from_s=last_s)
    async with watched(process) as bench:
        for _ in range(events):
            await asyncio.sleep(every_s)
            bench.watch.note("message")
        await asyncio.sleep(10 * LIMIT_S)
    assert bench.silent_at_s == [pytest.approx(last_s + PAUSE_S + LIMIT_S)]


@in_virtual_time
async def test_a_tick_of_the_kernel_between_two_measurements_is_no_work() -> None:
    async with watched(FakeProcess(busy_share=0.08), limit_s=1.0) as bench:
        await asyncio.sleep(2)
    assert bench.silent_at_s == [1.0]


@in_virtual_time
async def test_cpu_time_and_output_of_earlier_turns_are_no_signs_of_work() -> None:
    process = FakeProcess(started_cpu_s=1000)
    process.write("x")
    await asyncio.sleep(1000)
    async with watched(process) as bench:
        began_s = now_s()
        await asyncio.sleep(10 * LIMIT_S)
    (silent_at_s,) = bench.silent_at_s
    # The first measurement cannot tell the CPU time of this turn from that of earlier ones.
    assert silent_at_s == began_s + LIMIT_S + PAUSE_S
    assert "last output" not in bench.errors[0]


@in_virtual_time
async def test_each_execution_of_a_run_has_the_whole_limit() -> None:
    bench = Bench(SilenceLimit(LIMIT_S))
    execution: Any = SimpleNamespace(process=FakeProcess())
    for _ in range(3):
        async with bench.watch.over(execution):
            await asyncio.sleep(LIMIT_S - 1)
        await asyncio.sleep(10 * LIMIT_S)
    assert bench.silent_at_s == []


@in_virtual_time
async def test_a_run_whose_process_is_not_started_yet_can_be_silent() -> None:
    async with watched(None) as bench:
        await asyncio.sleep(10 * LIMIT_S)
    assert bench.silent_at_s == [LIMIT_S]


@in_virtual_time
async def test_a_run_that_cannot_be_measured_is_not_ended() -> None:
    process = FakeProcess()
    process.fault = OSError(24, "Too many open files")
    async with watched(process) as bench:
        await asyncio.sleep(10 * LIMIT_S)
        assert bench.silent_at_s == []
        process.fault = None
        await asyncio.sleep(10 * LIMIT_S)
    assert len(bench.silent_at_s) == 1


@in_virtual_time
async def test_without_a_limit_there_is_no_task() -> None:
    async with watched(FakeProcess(), limit_s=None) as bench:
        bench.watch.note("message")
        assert len(asyncio.all_tasks()) == 1
        await asyncio.sleep(10 * LIMIT_S)
    assert bench.silent_at_s == []


@in_virtual_time
async def test_the_only_task_is_named_and_ends_with_the_execution() -> None:
    process = FakeProcess()
    process.takes_s = 10
    async with watched(process):
        await asyncio.sleep(PAUSE_S + 1)  # during a measurement
        assert [task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()}] == ["silence of run_1"]
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize(("limit_s", "looks"), [(0.1, 1), (0.5, 2), (1.0, 4), (10_000.0, 4)])
@in_virtual_time
async def test_short_limits_are_measured_less_often(limit_s: float, looks: int) -> None:
    process = FakeProcess()
    async with watched(process, limit_s) as bench:
        await asyncio.sleep(3 * limit_s)
    assert bench.silent_at_s == [pytest.approx(limit_s)]
    assert len(process.measured_at_s) == looks


@in_virtual_time
async def test_runs_that_started_together_are_measured_one_after_another_with_rests() -> None:
    limit = SilenceLimit(LIMIT_S)
    processes = [FakeProcess() for _ in range(5)]
    async with AsyncExitStack() as stack:
        for process in processes:
            process.takes_s = 0.1
            execution: Any = SimpleNamespace(process=process)
            await stack.enter_async_context(SilenceWatch("run", limit, lambda _: None).over(execution))
        await asyncio.sleep(PAUSE_S + 6)
    measured_at_s = sorted(process.measured_at_s[0] for process in processes)
    # Each measurement of 0.1 s is followed by a rest that is nine times as long.
    assert measured_at_s == pytest.approx([PAUSE_S + place for place in range(5)])


@in_virtual_time
async def test_the_error_says_what_was_last_seen_and_has_the_last_lines() -> None:
    process = FakeProcess(1.0, busy_until_s=15)
    async with watched(process) as bench:
        await asyncio.sleep(5)
        bench.watch.note("post_tool")
        process.write("written to stdout")
        process.write("written to stderr", "stderr")
        await asyncio.sleep(10 * LIMIT_S)
    (error,) = bench.errors
    reason, *output = error.splitlines()
    assert reason.startswith(
        "silent: no event, no output and no busy process for 100 s (silence timeout); executing since 20"
    )
    assert "; last event: post_tool at 20" in reason
    assert "; last output: stderr at 20" in reason
    assert "; last busy at 20" in reason
    assert output == ["--- stderr ---", "written to stderr", "--- stdout ---", "written to stdout"]


@in_virtual_time
async def test_the_error_of_a_run_that_did_nothing_names_nothing() -> None:
    async with watched(FakeProcess()) as bench:
        await asyncio.sleep(2 * LIMIT_S)
    (error,) = bench.errors
    assert "last" not in error
