"""`fsm-runner rerun`."""

from contextlib import closing
from pathlib import Path

from fsm_runner.app.build_workflows import workflow_of
from fsm_runner.app.control_requests import Rerun
from fsm_runner.app.control_socket import REQUEST_LIMIT_BYTES, SOCKET_FILE, AnswerLost, ask
from fsm_runner.cli.output import say, show_json
from fsm_runner.errors import FsmRunnerError, UsageError
from fsm_runner.journal.reader import Reader, journals
from fsm_runner.protocol.json_text import encode_json
from fsm_runner.protocol.wire import RunCreated
from fsm_runner.runtime.workflow.rerun_plan import Replacement, plan_of
from fsm_runner.util import event_loop


def rerun(state_dir: Path, run_id: str, state: str, workflow: str | None) -> None:
    """Ask the runner that executed a run to repeat it from a state on, and print the ids of the new run.

    Raises `UsageError` if that is not possible, `FsmRunnerError` if the runner does not answer.
    """
    replacement = None if workflow is None else _replacement(workflow)
    path = _journal_of(state_dir, run_id, state, replacement)
    request = Rerun(run_id=run_id, state=state, workflow=replacement)
    if replacement is not None:
        _check_size(request, replacement)
    try:
        created = event_loop.run(ask(path.parent / SOCKET_FILE, request, RunCreated))
    except AnswerLost as fault:
        raise FsmRunnerError(
            f"{fault}. The new run may exist nevertheless, and be executed when the runner runs again: before you "
            f"repeat this command, look for it with `fsm-runner runs` or `fsm-runner history`"
        ) from fault
    if created is None:
        raise FsmRunnerError(
            f"the runner with the journal {path} is not running here: start it again, with the same profile, project "
            "directory and coordinator, and repeat this command"
        )
    show_json(created)
    say(f"{created.run_id} repeats {run_id} from {state} on; to look at it: fsm-runner history {created.run_id}")


def _replacement(workflow: str) -> Replacement:
    loaded = workflow_of(workflow)
    return Replacement(path=loaded.path, text=loaded.text, schemas=loaded.schemas)


def _check_size(request: Rerun, replacement: Replacement) -> None:
    size_bytes = len(encode_json(request))
    if size_bytes >= REQUEST_LIMIT_BYTES:  # the request ends with a line break
        raise UsageError(
            f"{replacement.path}: the workflow and its schemas have {size_bytes:,} bytes as JSON, and a runner accepts "
            f"less than {REQUEST_LIMIT_BYTES:,} in a request: move long texts into files of the project, and let "
            "prompts and commands name these files"
        )


def _journal_of(state_dir: Path, run_id: str, state: str, replacement: Replacement | None) -> Path:
    """Return the journal that has the run. Raises `UsageError` if none has, or if the run cannot be repeated so."""
    for path in journals(state_dir):
        try:
            reader = Reader(path)
        except UsageError as error:
            say(f"left out: {error}")
            continue
        with closing(reader):
            if plan_of(reader, run_id, state, replacement) is not None:
                return path
    raise UsageError(
        f"there is no run {run_id!r} in the journals in {state_dir}; `fsm-runner history` lists the latest runs"
    )
