"""When the list of runs is looked at, since an answer may have been lost."""

import pytest

from fsm_runner.coordinator_client.policy import POLL_MARGIN_S, RUN_LOOKUP_INTERVAL_S
from fsm_runner.runtime.control.reconciliation import ReconciliationWindow

HOLD_S = 30.0


def test_there_is_no_doubt_before_something_was_lost() -> None:
    doubt = ReconciliationWindow()
    assert not doubt.exists
    assert not doubt.is_due(1e9)
    doubt.settle(1e9)
    assert not doubt.exists


def test_a_doubt_is_looked_into_at_once_and_settled_by_the_first_answer() -> None:
    doubt = ReconciliationWindow()
    doubt.begin(100.0)
    assert (doubt.exists, doubt.is_due(100.0)) == (True, True)
    doubt.settle(100.0)
    assert (doubt.exists, doubt.is_due(1e9)) == (False, False)


@pytest.mark.parametrize("after_s", [0.0, 1.0, HOLD_S, HOLD_S + POLL_MARGIN_S - 0.1])
def test_a_lost_poll_that_is_still_held_is_not_settled_by_a_look_up_that_began_before_its_end(after_s: float) -> None:
    doubt = ReconciliationWindow()
    doubt.begin(100.0, HOLD_S)
    doubt.settle(100.0 + after_s)
    assert doubt.exists
    doubt.settle(100.0 + HOLD_S + POLL_MARGIN_S)
    assert not doubt.exists


def test_look_ups_have_an_interval_between_them_whatever_their_answers() -> None:
    doubt = ReconciliationWindow()
    doubt.begin(100.0, HOLD_S)
    for look_up in (doubt.settle, doubt.put_off):
        look_up(100.0)
        assert not doubt.is_due(100.0 + RUN_LOOKUP_INTERVAL_S - 0.01)
        assert doubt.is_due(100.0 + RUN_LOOKUP_INTERVAL_S)


def test_a_look_up_that_was_not_answered_settles_nothing() -> None:
    doubt = ReconciliationWindow()
    doubt.begin(100.0)
    doubt.put_off(100.0)
    assert doubt.exists


def test_a_later_loss_is_looked_into_at_once_and_does_not_shorten_an_earlier_doubt() -> None:
    doubt = ReconciliationWindow()
    doubt.begin(100.0, HOLD_S)
    doubt.settle(100.0)
    doubt.begin(100.5)
    assert doubt.is_due(100.5)
    doubt.settle(101.0)
    assert doubt.exists
    doubt.begin(110.0, HOLD_S)
    doubt.settle(100.0 + HOLD_S + POLL_MARGIN_S)
    assert doubt.exists
    doubt.settle(110.0 + HOLD_S + POLL_MARGIN_S)
    assert not doubt.exists
