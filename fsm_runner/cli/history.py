"""`fsm-runner history`."""

from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec

from fsm_runner.cli.history_workflow import show_workflow, show_workflow_json
from fsm_runner.cli.output import Row, say, show, show_json, show_table
from fsm_runner.cli.times import shown_duration, shown_s, shown_time
from fsm_runner.errors import UsageError
from fsm_runner.journal.reader import Reader, RunLife, SessionLife, SessionUsage, Step, journals
from fsm_runner.reporting.executor_status import Usage
from fsm_runner.util.error_text import headline
from fsm_runner.util.text import excerpt

RUNNER_NAME = "runner"
LATEST_RUNS = 20
LATEST_RUNNER_STEPS = 50
SHOWN_REASON_CHARS = 80
SHOWN_REPORT_CHARS = 500
"""`--json` has the complete texts."""

RUN_COLUMNS = ("RUN", "SESSION", "AGENT", "STATE", "CLAIMED", "LASTED")
STEP_COLUMNS = ("TIME", "STATE", "EVENT", "STAYED", "REASON")


def show_history(state_dir: Path, name: str | None, *, as_json: bool) -> None:
    """Show a run, a session, `runner`, or the latest runs (None). Raises `UsageError` if no journal has it."""
    with ExitStack() as stack:
        readers = _opened(state_dir, stack)
        if name is None:
            _show_latest_runs(readers, as_json=as_json)
        elif name == RUNNER_NAME:
            _show_runner(readers, as_json=as_json)
        elif not _show_named(readers, name, as_json=as_json):
            raise UsageError(
                f"there is nothing about {name!r} in the journals in {state_dir}; "
                "`fsm-runner history` lists the latest runs"
            )


def _opened(state_dir: Path, stack: ExitStack) -> list[Reader]:
    """Open all journals. One that cannot be read does not hide the others."""
    paths = journals(state_dir)
    if not paths:
        raise UsageError(f"there is no journal in {state_dir}: no runner has kept one there (--state-dir, STATE_DIR)")
    readers = []
    for path in paths:
        try:
            readers.append(stack.enter_context(closing(Reader(path))))
        except UsageError as error:
            if len(paths) == 1:
                raise
            say(f"left out: {error}")
    return readers


def _show_latest_runs(readers: Sequence[Reader], *, as_json: bool) -> None:
    lives = (life for reader in readers for life in reader.latest_runs(LATEST_RUNS))
    latest = sorted(lives, key=lambda life: life.claimed_at)[-LATEST_RUNS:]
    if as_json:
        _print_json(latest)
    else:
        show_table(RUN_COLUMNS, [_run_row(life) for life in latest])


def _show_runner(readers: Sequence[Reader], *, as_json: bool) -> None:
    steps = (step for reader in readers for step in reader.steps_of_runner(LATEST_RUNNER_STEPS))
    latest = sorted(steps, key=lambda step: step.at)[-LATEST_RUNNER_STEPS:]
    if as_json:
        _print_json(latest)
    else:
        show_table(("JOURNAL", *STEP_COLUMNS), [(step.journal, *_step_row(step, is_open=False)) for step in latest])


def _show_named(readers: Sequence[Reader], name: str, *, as_json: bool) -> bool:
    """Show a run or session; return False if no journal has it."""
    runs = [_show_run(reader, name, as_json=as_json) for reader in readers]
    sessions = [_show_session(reader, name, as_json=as_json) for reader in readers]
    return any(runs) or any(sessions)


def _show_run(reader: Reader, run_id: str, *, as_json: bool) -> bool:
    """Return False if this journal does not have the run."""
    lives = reader.run(run_id)
    for life in lives:
        steps = reader.steps_of_run(run_id)
        if as_json:
            _print_json([life, *steps])
            show_workflow_json(reader, run_id)
        else:
            title = f"{life.run_id}  agent {life.agent or '-'}  session {life.session_id}  runner {life.runner_id}"
            _show_steps(title, steps, is_open=life.ended_at is None)
            show_workflow(reader, run_id)
            show(_ending(life))
    return bool(lives)


def _show_session(reader: Reader, session_id: str, *, as_json: bool) -> bool:
    """Return False if this journal does not have the session."""
    lives, runs = reader.session(session_id), reader.runs_of_session(session_id)
    steps, usages = reader.steps_of_session(session_id), reader.usage_of_session(session_id)
    if as_json:
        _print_json([*lives, *steps, *runs, *usages])
        return bool(lives or runs)
    for life in lives:
        _show_steps(f"{life.session_id}  runner {life.runner_id}", steps, is_open=life.ended_at is None)
    if runs:
        show_table(RUN_COLUMNS, [_run_row(run) for run in runs])
    for usage in usages:
        show(f"\nused: {usage.used}")
        show(f"used by the tree of session {usage.root_session_id}: {usage.used_by_tree}")
    return bool(lives or runs)


def _show_steps(title: str, steps: Sequence[Step], *, is_open: bool) -> None:
    show(f"{title}\n")
    show_table(STEP_COLUMNS, [_step_row(step, is_open=is_open) for step in steps])
    show()


def _run_row(life: RunLife) -> Row:
    claimed, lasted = shown_time(life.claimed_at), shown_duration(life.lasted_s, life.claimed_at)
    return life.run_id, life.session_id, life.agent or "-", life.state or "-", claimed, lasted


def _step_row(step: Step, *, is_open: bool) -> Row:
    """Format a step. The last state of an open run or session still lasts."""
    stayed = "" if step.stayed_s is None and not is_open else shown_duration(step.stayed_s, step.at)
    reason = excerpt(headline(step.reason), SHOWN_REASON_CHARS)
    return shown_time(step.at), step.target, step.event, stayed, reason


def _ending(life: RunLife) -> str:
    report = ""
    if life.report_path is not None:
        report = f"{life.report_path} {excerpt(life.report_body or '', SHOWN_REPORT_CHARS)}"
    if life.ended_at is None:
        return f"open; to be reported: {report}" if report else "open"
    ending = f"{life.outcome or life.state or 'ended'} after {shown_s(life.lasted_s or 0.0)}"
    if life.usage is not None:
        ending += f" ({msgspec.json.decode(life.usage, type=Usage)})"
    return f"{ending}; reported: {report}" if report else f"{ending}; nothing was reported"


def _print_json(records: Sequence[RunLife | SessionLife | SessionUsage | Step]) -> None:
    for record in records:
        show_json(record)
