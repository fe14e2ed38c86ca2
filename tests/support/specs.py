"""Short forms for tests that write spec files."""

from pathlib import Path

from fsm_runner.machine.check import check
from fsm_runner.machine.defects import Defect, SpecError
from fsm_runner.machine.spec import ActorInterface, Spec
from fsm_runner.machine.spec_file import read


def check_file(path: Path, interface: ActorInterface | None = None) -> tuple[Defect, ...]:
    """Return all defects of a file, including those that prevent reading it."""
    try:
        return check(read(path), interface)
    except SpecError as error:
        return error.defects


def load(path: Path) -> Spec:
    """Return the spec in a file that matches the format. Rules are not checked."""
    file = read(path)
    assert file.defects == ()
    return file.spec
