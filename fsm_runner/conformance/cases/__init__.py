"""All cases in the order in which they run: simple ones first, so that the first failure is the most informative."""

from fsm_runner.conformance.case import Case
from fsm_runner.conformance.cases import (
    contents,
    endings,
    limits,
    questions,
    refusals,
    reporting,
    runner_metadata,
    starts,
    turns,
)

CASES: tuple[Case, ...] = (
    *questions.CASES,
    *starts.CASES,
    *reporting.CASES,
    *turns.CASES,
    *contents.CASES,
    *refusals.CASES,
    *endings.CASES,
    *limits.CASES,
    *runner_metadata.CASES,
)
