"""`fsm-runner machine check`."""

from collections.abc import Iterable
from pathlib import Path

from fsm_runner.cli.machine_files import find_file, own_specs
from fsm_runner.cli.output import show
from fsm_runner.errors import EXIT_FAILED, EXIT_OK, UsageError
from fsm_runner.machine.check import check
from fsm_runner.machine.defects import Defect, SpecError
from fsm_runner.machine.spec import ActorInterface
from fsm_runner.machine.spec_file import read
from fsm_runner.runtime.actors.interfaces import ACTOR_INTERFACES


def check_specs(files: Iterable[str]) -> int:
    """Print the defects of these specs, or of all of the program's own if there is none, and return the exit code."""
    own = own_specs()
    if missing := ACTOR_INTERFACES.keys() - own.keys():
        raise UsageError(f"neither a home nor the package has specs/{min(missing)}.toml")
    defects: list[Defect] = []
    for path in [find_file(file) for file in files] or own.values():
        try:
            defects += check(read(path), _interface(path, own))
        except SpecError as error:
            defects += error.defects
    for defect in defects:
        show(defect)
    return EXIT_FAILED if defects else EXIT_OK


def _interface(path: Path, own: dict[str, Path]) -> ActorInterface | None:
    """Return the interface of the actor that the file is for; None for a spec that is not one of the program's own."""
    name = next((name for name, it in own.items() if it.exists() and it.samefile(path)), None)
    return None if name is None else ACTOR_INTERFACES.get(name)
