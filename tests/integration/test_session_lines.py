"""Only `turn_complete` counts on the stdout of a persistent executor."""

from pathlib import Path

import pytest

from fsm_runner.executors.line_splitter import LINE_LIMIT_BYTES
from tests.support.command_executor import SESSION_STATUS, Step, held_by, scripted_bench
from tests.support.runner import waiter

COMPLETE = '{"type":"turn_complete"}'
LONG_CHARS = 10_000_000
assert LONG_CHARS > LINE_LIMIT_BYTES


@pytest.mark.parametrize(
    "line",
    [
        "",
        "plain text",
        "{",
        "[]",
        "null",
        '"turn_complete"',
        '{"type": "turn"}',
        '{"type": "log", "text": "turn_complete"}',
        '{"type": ["turn_complete"]}',
        '{"kind": "turn_complete"}',
        '{"inner": {"type": "turn_complete"}}',
        '{"type": "turn_complete"',
        'turn_complete: {"type": "turn_complete"}',
        '\xff\xfe\x00{"type": "turn_complete"}',
        '{"type": "turn_complete\xff"}',
        "[" * 100_000 + '"turn_complete"',
    ],
    ids=lambda line: ascii(line[:40]),
)
async def test_any_other_line_is_ignored(tmp_path: Path, line: str) -> None:
    async with scripted_bench(tmp_path) as bench, waiter(tmp_path) as held:
        run = await bench.start(["bind"], ["say", f"{line}\n"], *held_by(held), ["report"])
        pid = await held.started.pid()
        # The executor gets nothing in between, so the line was read first.
        assert "busy" in await bench.fails(await bench.resume(run))
        held.gate.write_line()
        assert (await bench.completes(run))["pid"] == pid


@pytest.mark.parametrize(
    "line",
    [
        COMPLETE,
        '  { "type" : "turn_complete" , "result" : null, "more": [1] }  ',
        '{"result": "\\ud83d\\ude00", "type": "turn_complete"}\r',
        '{"\\u0074ype": "turn_complete"}',
    ],
)
async def test_turn_complete_counts_in_any_json_format(tmp_path: Path, line: str) -> None:
    async with scripted_bench(tmp_path) as bench:
        run = await bench.start(["bind"], ["silent"], ["say", f"{line}\n"])
        await bench.completes(run)


@pytest.mark.parametrize("beginning", ["", '{"type": "log", "text": "'], ids=["text", "JSON"])
async def test_a_line_of_any_length_is_ignored(tmp_path: Path, beginning: str) -> None:
    async with scripted_bench(tmp_path) as bench:
        long: list[Step] = [["say", beginning], ["say", "x" * 10_000, LONG_CHARS // 10_000], ["say", "\n"]]
        run = await bench.start(["bind"], *long, ["report"])
        pid = (await bench.completes(run))["pid"]
        assert (await bench.completes(await bench.resume(run, *long, ["report"])))["pid"] == pid


async def test_a_turn_complete_that_is_too_long_is_recognized_by_its_beginning(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench:
        beginning, middle = (
            ["say", '{"type": "turn_complete", "result": "'],
            ["say", "x" * 10_000, LONG_CHARS // 10_000],
        )
        run = await bench.start(["bind"], ["silent"], beginning, middle, ["say", '"}\n'])
        await bench.completes(run)
        await bench.completes(await bench.resume(run))


async def test_turn_complete_may_arrive_in_pieces(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench, waiter(tmp_path) as held:
        run = await bench.start(
            ["bind"], ["silent"], ["say", '{"type": "tu'], *held_by(held), ["say", 'rn_complete"}\n']
        )
        await held.started.pid()
        held.gate.write_line()
        await bench.completes(run)


async def test_a_turn_complete_between_turns_completes_no_later_one(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench, waiter(tmp_path) as held:
        first = await bench.start(
            ["bind"], ["afterwards", ["say", f"{COMPLETE}\n", 3], ["tell_pid", str(held.started.path)]]
        )
        await bench.completes(first)
        pid = await held.started.pid()
        second = await bench.resume(first, *held_by(held), ["report"])
        await held.started.pid()
        assert "busy" in await bench.fails(await bench.resume(first))
        held.gate.write_line()
        answer = await bench.completes(second)
        assert (answer["pid"], answer["turns"]) == (pid, 2)


async def test_two_turns_completed_at_once_are_one(tmp_path: Path) -> None:
    async with scripted_bench(tmp_path) as bench:
        run = await bench.start(["bind"], ["silent"], ["say", f"{COMPLETE}\n{COMPLETE}\n"])
        await bench.completes(run)
        assert (await bench.completes(await bench.resume(run, ["report"])))["turns"] == 2
        assert not bench.proxy.calls_for("POST", SESSION_STATUS)
