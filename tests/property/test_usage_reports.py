"""The decoder of usage: each number of a report counts, whatever the other fields are."""

import math
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from fsm_runner.journal.records import MOST_USED
from fsm_runner.reporting.executor_status import Usage, take_executor_status
from tests.support.logs import log_lines

AMOUNTS = ("cost_usd", "duration_s")
NAMES = Usage.__struct_fields__
numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 9).map(float)
others = st.recursive(
    st.none() | st.booleans() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner | numbers, max_size=3),
    max_leaves=5,
)
reports = st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), numbers | others)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@given(reports)
def test_each_number_counts_and_each_other_value_is_logged(report: dict[str, Any]) -> None:
    fields = {"usage": msgspec.json.encode(report)}
    with log_lines("WARNING") as lines:
        status = take_executor_status(fields, "ses_1")
    known = {name: value for name, value in report.items() if name in NAMES}
    expected = {name: value for name, value in known.items() if is_number(value)}
    unusable = [name for name, value in known.items() if value is not None and not is_number(value)]
    assert len(lines) == len(unusable) + (not expected)
    assert all(any(line.startswith(f"ses_1: {name} of usage ") for line in lines) for name in unusable)
    assert all(len(line) < 500 for line in lines)
    assert (status is None, "usage" in fields) == (not expected, not expected)
    if status is None:
        return
    assert status.usage is not None
    for name, value in msgspec.structs.asdict(status.usage).items():
        if name not in expected:
            assert value is None
            continue
        assert isinstance(value, float if name in AMOUNTS else int)
        possible = max(0, min(expected[name], MOST_USED))
        assert value == (possible if name in AMOUNTS else math.ceil(possible))


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda data: b'{"turns": 1, "cost_usd": ' + data + b"}"))
def test_no_bytes_raise(data: bytes) -> None:
    fields = {"usage": data}
    status = take_executor_status(fields)
    assert (status is None) == (fields == {"usage": data})
