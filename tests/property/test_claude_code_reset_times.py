"""The times in the result texts of Claude Code: each time that the program can write is understood, and no text raises.

`written` formats times as the program does.
"""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from claude_code_executor.reset_times import reset_in_text, valid_time_s

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Pacific/Kiritimati", "America/Argentina/Ushuaia"]
NOW_S = datetime(2026, 11, 29, 18, 30, tzinfo=UTC).timestamp()

nows = st.datetimes(datetime(2025, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))
zones = st.sampled_from(ZONES)
soon = st.timedeltas(timedelta(seconds=1), timedelta(hours=23, minutes=45))
later = st.timedeltas(timedelta(hours=24, minutes=1), timedelta(days=700))


def written(reset: datetime, now: datetime, zone: str) -> str:
    """Return the time in the program's form, which has no seconds, and a date only after more than 24 hours."""
    local, today = reset.astimezone(ZoneInfo(zone)), now.astimezone(ZoneInfo(zone))
    minutes = f":{local:%M}" if local.minute else ""
    time = f"{local.hour % 12 or 12}{minutes}{'am' if local.hour < 12 else 'pm'}"
    year = f", {local.year}" if local.year != today.year else ""
    date = f"{local:%b} {local.day}{year}, " if reset - now > timedelta(hours=24) else ""
    return f"You've hit your 5-hour limit · resets {date}{time} ({zone})"


@given(nows, soon | later, zones)
def test_the_time_is_that_of_the_program_or_at_most_a_minute_later(now: datetime, wait: timedelta, zone: str) -> None:
    reset = now + wait
    found = reset_in_text(written(reset, now, zone), now.timestamp())
    assert found is not None
    late_s = found - reset.timestamp()
    # An hour that occurs twice when the clocks go back is taken for the first one, and the runner tries again.
    is_ambiguous = reset.astimezone(ZoneInfo(zone)).fold == 1
    assert 0 < late_s <= 60 or (is_ambiguous and -3600 < late_s <= 60)


@pytest.mark.parametrize(
    ("text", "reset"),
    [
        ("resets 7pm (UTC)", "2026-11-29 19:01"),
        ("resets 6:25pm (UTC)", "2026-11-29 18:26"),
        ("resets 6:19pm (UTC)", "2026-11-30 18:20"),
        ("resets 12am (UTC)", "2026-11-30 00:01"),
        ("resets 12:30pm (UTC)", "2026-11-30 12:31"),
        ("resets 8:15 PM (Europe/Berlin)", "2026-11-29 19:16"),
        ("resets at 7pm (UTC)", "2026-11-29 19:01"),
        ("resets Dec 2 at 6pm (UTC)", "2026-12-02 18:01"),
        ("resets December 2, 6pm (UTC)", "2026-12-02 18:01"),
        ("resets Jan 2, 6pm (UTC)", "2027-01-02 18:01"),
        ("resets Feb 29, 2028, 6pm (UTC)", "2028-02-29 18:01"),
        ("usage limit reached|1795980405", "2026-11-29 19:26"),
    ],
)
def test_known_forms(text: str, reset: str) -> None:
    found = reset_in_text(f"You've hit your limit · {text}", NOW_S)
    assert found is not None
    assert f"{datetime.fromtimestamp(found, UTC):%Y-%m-%d %H:%M}" == reset


@pytest.mark.parametrize(
    "text",
    [
        "resets soon",
        "resets 17pm",
        "resets 0am (UTC)",
        "resets 7:60pm (UTC)",
        "resets Feb 30, 6pm (UTC)",
        "resets Feb 29, 6pm (UTC)",
        "resets Jan 1, 0000, 6pm (UTC)",
        "resets 7pm (Europe)",
        "resets 7pm (Nowhere/Land)",
        "resets 7pm (../../etc/passwd)",
        "resets 7pm (\0)",
        "limit reached|999999999999999",
        "limit reached|1795980405000",
    ],
)
def test_texts_without_a_time(text: str) -> None:
    assert reset_in_text(f"You've hit your limit · {text}", NOW_S) is None


pieces = st.sampled_from(
    ["resets ", "at ", "limit reached|", "Dec ", "Feb ", "30", "2", ", ", "9999", "7", ":", "59", "pm", "am", " (", ")"]
)
texts = st.lists(pieces | st.sampled_from(ZONES) | st.text(max_size=4)).map("".join) | st.text()


@given(texts, nows)
def test_no_text_raises(text: str, now: datetime) -> None:
    found = reset_in_text(text, now.timestamp())
    assert found is None or valid_time_s(found) == found


json_values = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.integers())


@given(json_values)
def test_a_valid_time_is_one_of_the_calendar(value: object) -> None:
    time_s = valid_time_s(value)
    assert time_s is None or datetime.fromtimestamp(time_s, UTC).year in range(1, 10_000)
