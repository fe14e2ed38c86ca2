"""`fsm-runner machine test`."""

import time
from collections.abc import Sequence
from pathlib import Path

from fsm_runner.cli.machine_files import find_file, own_workflows
from fsm_runner.cli.output import show
from fsm_runner.errors import EXIT_FAILED, EXIT_OK, UsageError
from fsm_runner.machine.defects import place_of
from fsm_runner.util.text import quoted
from fsm_runner.workflow.file import WorkflowError, load_workflow
from fsm_runner.workflow.rehearsal import Rehearsal, rehearse
from fsm_runner.workflow.scenarios import SUFFIX, ScenarioFile, read_scenarios, scenarios_path


def rehearse_workflows(files: Sequence[str]) -> int:
    """Carry out the scenarios of these workflows, or of all in the homes if there is none. Return the exit code.

    Raises `UsageError` if a workflow that was named has no scenarios.
    """
    paths = [_workflow_of(find_file(file)) for file in files]
    for path in paths:
        if not scenarios_path(path).is_file():
            raise UsageError(f"{path}: has no scenarios: write {scenarios_path(path)}, as docs/workflows.md describes")
    is_sound = True
    for path in paths or own_workflows().values():
        if not scenarios_path(path).is_file():
            show(f"{path}: has no scenarios")
            continue
        try:
            is_sound &= _test(read_scenarios(scenarios_path(path), load_workflow(path)))
        except WorkflowError as error:
            is_sound = False
            for defect in error.defects:
                show(defect)
    return EXIT_OK if is_sound else EXIT_FAILED


def _workflow_of(path: Path) -> Path:
    """Return the file of the workflow: that beside a scenario file, or the file itself."""
    if not path.name.endswith(SUFFIX):
        return path
    return find_file(str(path.with_name(path.name.removesuffix(SUFFIX) + ".toml")))


def _test(file: ScenarioFile) -> bool:
    """Print the outcome of each scenario. Return whether the workflow did what all of them expect."""
    show(file.path)
    visited: set[str] = set()
    failures = 0
    for index, scenario in enumerate(file.scenarios):
        began_s = time.perf_counter()
        rehearsal = rehearse(file.workflow, scenario)
        took_ms = (time.perf_counter() - began_s) * 1000
        visited.update(rehearsal.path)
        failures += bool(rehearsal.differences)
        show(f"  {'FAILED' if rehearsal.differences else 'ok':6} {took_ms:7.1f} ms  {scenario.name}")
        for line in _explained(file, index, rehearsal):
            show(f"    {line}")
    count = len(file.scenarios)
    show(f"  {count} {'scenario' if count == 1 else 'scenarios'}, {failures} failed")
    if unvisited := [quoted(name) for name in file.workflow.definition.states if name not in visited]:
        show(f"  no scenario visits {', '.join(unvisited)}")
    return failures == 0


def _explained(file: ScenarioFile, index: int, rehearsal: Rehearsal) -> list[str]:
    if not rehearsal.differences:
        return []
    lines = []
    for difference in rehearsal.differences:
        line = file.lines.of(("scenarios", index, *difference.at))
        lines.append(f"{file.path}:{line}: {place_of(difference.at)}: {difference.message}")
    return [*lines, f"path: {' → '.join(rehearsal.path)}"]
