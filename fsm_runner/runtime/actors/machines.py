"""Loads the program's own machines."""

from fsm_runner.config.paths import find
from fsm_runner.errors import UsageError
from fsm_runner.machine.check import checked
from fsm_runner.machine.defects import SpecError
from fsm_runner.machine.engine import Machine
from fsm_runner.runtime.actors.interfaces import ACTOR_INTERFACES


def load_machine(name: str) -> Machine:
    """Return the machine that `specs/{name}.toml` of the home declares, or of the package if the home has none.

    Raises `UsageError` with every defect if its actor cannot run it.
    """
    try:
        return Machine(checked(find(f"specs/{name}.toml"), ACTOR_INTERFACES[name]))
    except SpecError as error:
        raise UsageError(str(error)) from error
