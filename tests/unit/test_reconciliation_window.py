"""When the list of runs is compared because a response may have been lost."""

import pytest

from fsm_runner.coordinator_client.policy import POLL_MARGIN_S, RUN_LOOKUP_INTERVAL_S
from fsm_runner.runtime.control.reconciler import ReconciliationWindow

HOLD_S = 30.0


def test_the_window_is_closed_before_something_is_lost() -> None:
    window = ReconciliationWindow()
    assert not window.is_open
    assert not window.is_due(1e9)
    window.close(1e9)
    assert not window.is_open


def test_a_loss_is_looked_up_at_once_and_the_first_answer_closes_the_window() -> None:
    window = ReconciliationWindow()
    window.open(100.0)
    assert (window.is_open, window.is_due(100.0)) == (True, True)
    window.close(100.0)
    assert (window.is_open, window.is_due(1e9)) == (False, False)


@pytest.mark.parametrize("after_s", [0.0, 1.0, HOLD_S, HOLD_S + POLL_MARGIN_S - 0.1])
def test_a_look_up_that_begins_while_a_lost_poll_may_be_held_does_not_close_the_window(after_s: float) -> None:
    window = ReconciliationWindow()
    window.open(100.0, HOLD_S)
    window.close(100.0 + after_s)
    assert window.is_open
    window.close(100.0 + HOLD_S + POLL_MARGIN_S)
    assert not window.is_open


def test_look_ups_have_an_interval_between_them_whatever_their_answers() -> None:
    window = ReconciliationWindow()
    window.open(100.0, HOLD_S)
    for look_up in (window.close, window.postpone):
        look_up(100.0)
        assert not window.is_due(100.0 + RUN_LOOKUP_INTERVAL_S - 0.01)
        assert window.is_due(100.0 + RUN_LOOKUP_INTERVAL_S)


def test_a_look_up_without_an_answer_leaves_the_window_open() -> None:
    window = ReconciliationWindow()
    window.open(100.0)
    window.postpone(100.0)
    assert window.is_open


def test_a_later_loss_is_looked_up_at_once_and_does_not_shorten_the_window() -> None:
    window = ReconciliationWindow()
    window.open(100.0, HOLD_S)
    window.close(100.0)
    window.open(100.5)
    assert window.is_due(100.5)
    window.close(101.0)
    assert window.is_open
    window.open(110.0, HOLD_S)
    window.close(100.0 + HOLD_S + POLL_MARGIN_S)
    assert window.is_open
    window.close(110.0 + HOLD_S + POLL_MARGIN_S)
    assert not window.is_open
