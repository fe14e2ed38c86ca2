"""`fsm-runner machine check`."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from fsm_runner.cli.machine_files import find_file, is_workflow, own_specs, own_workflows
from fsm_runner.cli.output import say, show
from fsm_runner.config.paths import bundled
from fsm_runner.config.profiles import PROCEDURAL_COMMAND, load_profile, profile_paths
from fsm_runner.config.workflows import find_workflow, misnamed_workflows
from fsm_runner.errors import EXIT_FAILED, EXIT_OK, UsageError
from fsm_runner.machine.check import check
from fsm_runner.machine.decoder import similar
from fsm_runner.machine.defects import Defect, SpecError
from fsm_runner.machine.spec import ActorInterface
from fsm_runner.machine.spec_file import read
from fsm_runner.runtime.actors.interfaces import ACTOR_INTERFACES
from fsm_runner.runtime.workflow.workflows import procedural_defect, recursion_defect
from fsm_runner.util.text import quoted
from fsm_runner.workflow.check import check as check_workflow
from fsm_runner.workflow.file import WorkflowError, WorkflowFile, read_workflow


def check_files(files: Iterable[str]) -> int:
    """Print the defects of specs and workflows, and return the exit code.

    Without files: of all specs and workflows in the homes, and of the profiles and agents that name a workflow.
    """
    own = own_specs()
    if missing := ACTOR_INTERFACES.keys() - own.keys():
        raise UsageError(f"neither a home nor the package has specs/{min(missing)}.toml")
    paths = [find_file(file) for file in files]
    defects: list[object] = []
    for path in paths or (*own.values(), *own_workflows().values()):
        defects += _defects(path, own, is_named=bool(paths))
    if not paths:
        message = "no workflow can have this name: use letters, digits, `-` and `_`"
        defects += (Defect(str(path), None, "", message) for path in misnamed_workflows())
        defects += _defects_of_references()
    for defect in defects:
        show(defect)
    return EXIT_FAILED if defects else EXIT_OK


def _defects(path: Path, own: dict[str, Path], *, is_named: bool) -> tuple[Defect, ...]:
    try:
        if not is_workflow(path):
            return check(read(path), _interface(path, own))
        file = read_workflow(path)
        if is_named or not path.absolute().is_relative_to(bundled()):
            _note_approvals(file)
            _note_agents(file)
        return check_workflow(file)
    except (SpecError, WorkflowError) as error:
        return error.defects


def _interface(path: Path, own: dict[str, Path]) -> ActorInterface | None:
    """Return the interface of the actor that the file is for; None for a spec that is not one of the program's own."""
    name = next((name for name, it in own.items() if it.exists() and it.samefile(path)), None)
    return None if name is None else ACTOR_INTERFACES.get(name)


def _note_approvals(file: WorkflowFile) -> None:
    """Say on stderr that an agent could approve its own request, unless the runner's user is another one."""
    if file.definition is None or os.environ.get("RUN_AS"):
        return
    for name, state in file.definition.states.items():
        if state.approval is not None:
            message = (
                "note: an agent with the rights of the runner's user could approve its own request: start runners with "
                "--run-as (docs/workflows.md)"
            )
            say(file.defect(("states", name, "approval"), message))
            return


def _note_agents(file: WorkflowFile) -> None:
    """Say on stderr which agents no profile here has. Another runner, or a coordinator's blueprint, may have them."""
    states = {} if file.definition is None else file.definition.states
    named = {name: state.agent.name for name, state in states.items() if state.agent is not None and state.agent.name}
    if not named:
        return
    known: set[str] = set()
    for profile in profile_paths():
        with suppress(UsageError):  # `fsm-runner profiles` reports it
            known.update(agent.name for agent in load_profile(profile).agents)
    for state, agent in named.items():
        if agent not in known and "${" not in agent:
            message = f"note: no profile here has the agent {quoted(agent)}{similar(agent, known)}"
            defect = file.defect(("states", state, "agent", "name"), f"{message}; another runner must offer it")
            say(defect)


def _defects_of_references() -> Iterator[str]:
    """Yield the profiles and agents whose workflow does not exist, or cannot be followed: their runs fail."""
    for name, path in profile_paths().items():
        try:
            profile = load_profile(name)
        except UsageError:
            continue  # `fsm-runner profiles` reports it
        named: list[tuple[Path, str | None, str | None]] = [(path, None, profile.profile.workflow)]
        named += [(profile.agent_files[agent.name], agent.name, agent.workflow) for agent in profile.agents]
        is_procedural = profile.profile.command == PROCEDURAL_COMMAND
        for file, agent, workflow in named:
            if workflow is not None and (defect := _reference_defect(workflow, agent, is_procedural)) is not None:
                yield str(Defect(str(file), _line_of(file), "workflow", defect))


def _line_of(file: Path) -> int | None:
    """Return the line in which a profile or an agent names its workflow."""
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:  # it was removed after it had been read
        return None
    return next((number for number, line in enumerate(lines, 1) if re.search(r'"workflow"\s*:', line)), None)


def _reference_defect(name: str, agent: str | None, is_procedural: bool) -> str | None:
    try:
        definition = read_workflow(path := find_workflow(name)).definition
    except WorkflowError:
        return None  # reported as a defect of the workflow
    except UsageError as error:
        return str(error)
    if definition is None:
        return None
    defect = procedural_defect(definition) if is_procedural else None
    if defect is None and agent is not None:
        defect = recursion_defect(definition, agent)
    return None if defect is None else f"{path}: {defect}"
