"""Timestamps of events, which a coordinator orders as text."""

import itertools
import re
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fsm_runner.protocol.event_clock import EventClock

FORM = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")


def test_a_timestamp_is_the_time_in_utc() -> None:
    before = datetime.now(UTC)
    stamp = datetime.fromisoformat(EventClock().now())
    assert before <= stamp <= datetime.now(UTC)


def test_many_timestamps_are_unique_and_ordered() -> None:
    clock = EventClock()
    stamps = [clock.now() for _ in range(5000)]
    assert all(earlier < later for earlier, later in itertools.pairwise(stamps))


@settings(deadline=None)
@given(st.lists(st.floats(0, 4e9), min_size=2, max_size=20))
def test_timestamps_grow_as_text_whatever_the_system_clock_does(times: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time", iter(times).__next__)
        clock = EventClock()
        stamps = [clock.now() for _ in times]
    assert all(FORM.fullmatch(stamp) for stamp in stamps)
    assert all(earlier < later for earlier, later in itertools.pairwise(stamps))


def test_a_whole_second_keeps_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.0)
    assert EventClock().now() == "2023-11-14T22:13:20.000000Z"
