"""Formats outcomes as a table."""

from collections.abc import Sequence

from fsm_runner.conformance.cases import CASES
from fsm_runner.conformance.result import Outcome
from fsm_runner.protocol.statuses import Lifecycle

STATUS_WIDTH = 8
NAME_WIDTH = max(len(case.name) for case in CASES)
INDENT = "    "


def heading(lifecycle: Lifecycle) -> str:
    return f"{lifecycle}\n{'':{STATUS_WIDTH}}{'CASE':<{NAME_WIDTH}}  REQUIREMENT"


def row(outcome: Outcome) -> str:
    remark = f" ({outcome.remark})" if outcome.remark else ""
    return f"{outcome.status:<{STATUS_WIDTH}}{outcome.case:<{NAME_WIDTH}}  {outcome.asks}{remark}"


def failure(outcome: Outcome) -> str:
    """Return the failure's message and transcript."""
    lines = [
        f"FAILED {outcome.case} ({outcome.lifecycle})",
        f"required: {outcome.asks}",
        f"observed: {outcome.message or ''}",
        *outcome.transcript,
    ]
    return f"\n{INDENT}".join(lines)


def summary(outcomes: Sequence[Outcome]) -> str:
    counts = {status: sum(each.status == status for each in outcomes) for status in ("ok", "FAILED", "untried")}
    text = f"{counts['ok']} of {sum(counts.values())} passed"
    if counts["FAILED"]:
        text += f", {counts['FAILED']} failed"
    if counts["untried"]:
        text += f", {counts['untried']} not tried"
    if any(each.status == "-" for each in outcomes):
        text += " (-: does not apply)"
    return text
