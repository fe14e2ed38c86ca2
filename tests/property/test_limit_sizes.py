"""Sizes of limits."""

import string
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from fsm_runner.process.limits.limits import MOST_BYTES, ResourceLimits, limit_text, parse_limits, parse_size, size_text

UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
sizes = st.integers(min_value=1, max_value=MOST_BYTES)


@given(st.sampled_from(list(UNITS)), st.data())
def test_a_size_is_its_number_times_its_unit(unit: str, data: st.DataObject) -> None:
    number = data.draw(st.integers(min_value=1, max_value=MOST_BYTES // UNITS[unit]))
    assert parse_size(f"{number}{unit}") == number * UNITS[unit]


@given(st.text(alphabet=f"{string.digits}{string.ascii_letters}., -+_"))
def test_any_other_text_is_refused_or_is_a_size_within_bounds(text: str) -> None:
    try:
        size_bytes = parse_size(text)
    except ValueError as defect:
        assert "expected a number of bytes" in str(defect)
    else:
        assert 1 <= size_bytes <= MOST_BYTES
        assert text.startswith(tuple(string.digits))


@given(st.text())
def test_any_text_of_the_flag_is_parsed_or_rejected(text: str) -> None:
    try:
        assert isinstance(parse_limits(text), ResourceLimits)
    except ValueError as defect:
        assert str(defect)


@given(sizes)
def test_a_size_that_is_shown_is_never_less_than_it_is(size_bytes: int) -> None:
    shown, _, unit = size_text(size_bytes).partition(" ")
    shown_bytes = Fraction(shown.replace(",", "")) * UNITS["" if unit == "bytes" else unit]
    assert size_bytes <= shown_bytes <= size_bytes * Fraction(11, 10)


@given(sizes, st.integers(min_value=1))
def test_what_is_more_than_a_limit_looks_like_more(limit_bytes: int, more_bytes: int) -> None:
    assert limit_text(limit_bytes) != size_text(limit_bytes + more_bytes)


@given(sizes)
def test_a_limit_is_shown_exactly(limit_bytes: int) -> None:
    shown, _, unit = limit_text(limit_bytes).partition(" ")
    assert Fraction(shown.replace(",", "")) * UNITS["" if unit == "bytes" else unit] == limit_bytes
