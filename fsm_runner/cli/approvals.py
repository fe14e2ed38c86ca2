"""`fsm-runner approvals` and `fsm-runner approve`."""

from collections.abc import Mapping
from pathlib import Path

from fsm_runner.app.control_requests import Decide, ListApprovals
from fsm_runner.app.control_socket import SOCKET_FILE, AnswerLost, ask, ask_all
from fsm_runner.app.local_socket import is_unreachable, sockets, sockets_of_single_runs
from fsm_runner.cli.output import Row, say, show, show_json, show_table
from fsm_runner.cli.parameters import check_utf8
from fsm_runner.cli.submission import coordinator_api
from fsm_runner.config.settings import load_config
from fsm_runner.coordinator_client.errors import CoordinatorError, Refused
from fsm_runner.errors import EXIT_FAILED, EXIT_OK, FsmRunnerError, UsageError
from fsm_runner.protocol.approvals import (
    COMMENT_LIMIT_CHARS,
    NOT_PENDING,
    ApprovalAnswer,
    Decided,
    ListedApproval,
    RunnerApproval,
    RunnerApprovals,
)
from fsm_runner.protocol.error_bodies import ErrorDetail, detail_of, reason_of
from fsm_runner.runtime.workflow.approvals import UNRECORDED
from fsm_runner.util import event_loop
from fsm_runner.util.text import excerpt

COLUMNS = ("RUN", "WORKFLOW", "STATE", "QUESTION", "SINCE", "DEADLINE")
QUESTION_CHARS = 60
"""The width of the column of questions. With the id of its run, the whole text is shown."""

FORBIDDEN, NOT_FOUND, CONFLICT = 403, 404, 409

Answers = Mapping[Path, RunnerApprovals | FsmRunnerError]


def list_approvals(state_dir: Path, url: str | None, run_id: str | None = None, *, as_json: bool) -> int:
    """Print the pending approvals of the runners on this machine, and of the coordinator if one is configured.

    With `run_id`, print the whole question of that run. Say so if no runner runs and no coordinator has approvals.
    Return exit code 1 if a runner or the coordinator does not answer. Raises `UsageError` if the run waits for no
    approval.
    """
    found, faults, has_source = event_loop.run(_all_approvals(state_dir, url))
    for fault in faults:
        say(f"error: {fault}")
    if not has_source:
        say(f"no runner is at work with a journal in {state_dir}, and no `fsm-runner run` of this user")
    if run_id is not None:
        found = [each for each in found if each.run_id == run_id]
        if not found and not faults:
            raise UsageError(f"{run_id} waits for no approval; `fsm-runner approvals` lists the pending ones")
    if as_json:
        for approval in found:
            show_json(approval)
    elif run_id is not None:
        for approval in found:
            show(approval.question)
    else:
        show_table(COLUMNS, map(_row, found))
    for approval in found:
        if isinstance(approval, RunnerApproval) and (decision := approval.unrecorded) is not None:
            say(f"{approval.run_id} is {decision.what} by {decision.by}, but the decision is {UNRECORDED}")
    _warn_of_long_path(state_dir)
    return EXIT_FAILED if faults else EXIT_OK


def decide(state_dir: Path, url: str | None, run_id: str, *, approved: bool, comment: str) -> None:
    """Decide the approval for which a run waits.

    Raises `UsageError` if it waits for none, and `FsmRunnerError` if an earlier decision counts.
    """
    check_utf8("--comment", comment)
    if len(comment) > COMMENT_LIMIT_CHARS:
        raise UsageError(f"--comment: the text has {len(comment):,} characters, of at most {COMMENT_LIMIT_CHARS:,}")
    decided, is_confirmed = event_loop.run(_decide(state_dir, url, run_id, approved=approved, comment=comment))
    say(f"{run_id} is {decided.what} by {decided.by}")
    if not is_confirmed:
        say("the coordinator hands the decision to the runner, which has not confirmed it yet")


async def _all_approvals(state_dir: Path, url: str | None) -> tuple[list[ListedApproval], list[FsmRunnerError], bool]:
    """Return the pending approvals, what failed, and whether a runner or a coordinator has been found."""
    answers = await _ask_runners(state_dir)
    faults = [answer for answer in answers.values() if isinstance(answer, FsmRunnerError)]
    approvals: list[ListedApproval] = []
    has_source = bool(answers)
    for answer in answers.values():
        approvals += answer.approvals if isinstance(answer, RunnerApprovals) else []
    if _has_coordinator(url):
        known = {each.run_id for each in approvals}
        try:
            async with coordinator_api(url) as api:
                approvals += [each for each in await api.approvals() if each.run_id not in known]
            has_source = True
        except CoordinatorError as fault:
            if not _offers_none(fault, has_runners=bool(answers)):
                faults.append(fault)
    return sorted(approvals, key=lambda each: each.since), faults, has_source or bool(faults)


async def _decide(
    state_dir: Path, url: str | None, run_id: str, *, approved: bool, comment: str
) -> tuple[Decided, bool]:
    """Return the decision, and whether the runner has confirmed it."""
    answers = await _ask_runners(state_dir)
    holders = [path for path, answer in answers.items() if _has_run(answer, run_id)]
    if len(holders) > 1:
        names = ", ".join(str(path.parent) for path in holders)
        raise UsageError(f"several runners wait for an approval of {run_id}: {names}; stop all but one of them")
    request = Decide(run_id=run_id, approved=approved, comment=comment)
    # Without a holder, a runner may still know who has decided before.
    refusals = [answer for answer in answers.values() if isinstance(answer, FsmRunnerError)]
    for path in holders or [path for path, answer in answers.items() if isinstance(answer, RunnerApprovals)]:
        try:
            if (decided := await ask(path, request, Decided)) is not None:
                return decided, True
        except AnswerLost as fault:
            raise FsmRunnerError(
                f"{fault}. The decision may count nevertheless: repeat the command, and it says who has decided"
            ) from fault
        except UsageError:
            if holders:
                raise
    if _has_coordinator(url):
        answer = ApprovalAnswer(approved=approved, comment=comment)
        decided_there = await _decide_at_coordinator(url, run_id, answer, has_runners=bool(answers))
        if decided_there is not None:
            return decided_there
    if refusals:
        raise refusals[0]
    _warn_of_long_path(state_dir)
    raise UsageError(
        f"no runner with a journal in {state_dir} waits for an approval of {run_id}; `fsm-runner approvals` lists the "
        f"pending ones, `fsm-runner history {run_id}` an earlier decision, --state-dir names another directory, and "
        "--coordinator-url a coordinator"
    )


async def _decide_at_coordinator(
    url: str | None, run_id: str, answer: ApprovalAnswer, *, has_runners: bool
) -> tuple[Decided, bool] | None:
    """Return the decision and whether it is confirmed; None if the run waits for no approval there."""
    async with coordinator_api(url) as api:
        try:
            response = await api.decide(run_id, answer)
        except Refused as refusal:
            if _offers_none(refusal, has_runners=has_runners) or _is_not_pending(refusal):
                return None
            if refusal.status == CONFLICT:
                raise FsmRunnerError(excerpt(reason_of(refusal.body))) from refusal
            raise
        return response.decision, response.confirmed


async def _ask_runners(state_dir: Path) -> Answers:
    paths = [*sockets(state_dir, SOCKET_FILE), *sockets_of_single_runs(SOCKET_FILE)]
    return await ask_all(paths, ListApprovals(), RunnerApprovals)


def _has_run(answer: RunnerApprovals | FsmRunnerError, run_id: str) -> bool:
    return isinstance(answer, RunnerApprovals) and any(each.run_id == run_id for each in answer.approvals)


def _has_coordinator(url: str | None) -> bool:
    return load_config({"coordinator_url": url}).coordinator_url is not None


def _offers_none(fault: CoordinatorError, *, has_runners: bool) -> bool:
    """Return whether the coordinator does not know the call, as a deployed one, or does not know the run.

    One that requires no tokens refuses the call, which is no fault where runners of this machine answer.
    """
    return isinstance(fault, Refused) and (fault.status == NOT_FOUND or (has_runners and fault.status == FORBIDDEN))


def _is_not_pending(refusal: Refused) -> bool:
    detail = detail_of(refusal.body)
    return isinstance(detail, ErrorDetail) and detail.error == NOT_PENDING


def _warn_of_long_path(state_dir: Path) -> None:
    if is_unreachable(state_dir, SOCKET_FILE):
        say(f"{state_dir} is too long for the path of a socket on this system: use a shorter --state-dir")


def _row(approval: ListedApproval) -> Row:
    question = excerpt(approval.question, QUESTION_CHARS)
    return approval.run_id, approval.workflow, approval.state, question, approval.since, approval.due or "-"
