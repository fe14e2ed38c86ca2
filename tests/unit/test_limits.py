"""Limits in flags and in messages."""

import pytest

from fsm_runner.process.limits.limits import NO_LIMITS, ResourceLimits, limit_text, parse_limits, size_text
from fsm_runner.util.structs import with_defaults

EXAMPLE = "memory=2GiB,processes=200,open_files=1024,cpu=600,output=64MiB"


def test_the_example_of_the_documentation_is_read() -> None:
    assert parse_limits(EXAMPLE) == ResourceLimits(
        memory_bytes=2 << 30, processes=200, open_files=1024, cpu_s=600, output_bytes=64 << 20
    )


def test_limits_are_optional_and_blanks_are_ignored() -> None:
    assert parse_limits(" cpu = 0.5 , memory = 100 ") == ResourceLimits(cpu_s=0.5, memory_bytes=100)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("memory", "memory: expected a number of bytes"),
        ("memory=", "memory: expected a number of bytes"),
        ("memory=0", "memory: expected a number of bytes"),
        ("memory=-1", "memory: expected a number of bytes"),
        ("memory=1.5GiB", "memory: expected a number of bytes"),
        ("memory=2GB", "memory: expected a number of bytes"),
        ("memory=2gib", "memory: expected a number of bytes"),
        ("memory=٣", "memory: expected a number of bytes"),
        (f"memory={1 << 61}", "memory: expected a number of bytes"),
        ("output=" + "9" * 5000, "output: expected a number of bytes"),
        ("processes=1_0", "processes: expected a whole number"),
        ("open_files=1.0", "open_files: expected a whole number"),
        ("open_files=9", "open_files: expected a whole number from 10 up"),
        ("cpu=0", "cpu: expected a number of seconds"),
        ("cpu=inf", "cpu: expected a number of seconds"),
        ("cpu=1e3", "cpu: expected a number of seconds"),
        ("cpu=1,cpu=2", "cpu is given twice"),
        ("memory=1,", "expected NAME=VALUE"),
        ("memory_bytes=1", "NAME is one of memory, processes, open_files, cpu, output"),
    ],
)
def test_errors_say_what_was_expected(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=r"expected|twice") as refused:
        parse_limits(text)
    assert reason in str(refused.value)


def test_each_limit_overrides_its_default() -> None:
    ours, theirs = ResourceLimits(cpu_s=1, processes=5), ResourceLimits(cpu_s=2, memory_bytes=3)
    assert with_defaults(ours, theirs) == ResourceLimits(cpu_s=1, processes=5, memory_bytes=3)
    assert with_defaults(NO_LIMITS, theirs) == theirs
    assert with_defaults(theirs, NO_LIMITS) == theirs


def test_processes_are_measured_only_if_a_limit_needs_it() -> None:
    assert not NO_LIMITS.need_measuring
    assert not ResourceLimits(open_files=50, output_bytes=5).need_measuring
    for limits in (ResourceLimits(memory_bytes=5), ResourceLimits(processes=5), ResourceLimits(cpu_s=5)):
        assert limits.need_measuring


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (1, "1 bytes"),
        (1023, "1,023 bytes"),
        (1024, "1 KiB"),
        (1025, "1.1 KiB"),
        (64 << 20, "64 MiB"),
        (2 << 30, "2 GiB"),
        ((2 << 30) + 1, "2.1 GiB"),
        (5000 << 30, "5,000 GiB"),
    ],
)
def test_sizes_are_readable(size_bytes: int, text: str) -> None:
    assert size_text(size_bytes) == text


@pytest.mark.parametrize(
    ("limit_bytes", "text"),
    [(2 << 30, "2 GiB"), (3 << 29, "1.5 GiB"), (2000, "2,000 bytes"), (1_500_000, "1,500,000 bytes"), (5, "5 bytes")],
)
def test_limits_are_shown_exactly(limit_bytes: int, text: str) -> None:
    assert limit_text(limit_bytes) == text
