"""The program's own machines: loaded, checked, ready to run."""

from fsm_runner.config.paths import find
from fsm_runner.errors import UsageError
from fsm_runner.machine.check import checked
from fsm_runner.machine.defects import SpecError
from fsm_runner.machine.engine import Guard, Machine, fact, outcome_is
from fsm_runner.runtime.actors.interfaces import ACTOR_INTERFACES

_OUTCOME_GUARD = "outcome_is_"


def load_machine(name: str) -> Machine:
    """The machine that the home's `specs/{name}.toml` declares.

    Raises `UsageError` with every defect when the file is not sound; nothing runs on a broken spec.
    """
    vocabulary = ACTOR_INTERFACES[name]
    try:
        spec = checked(find(f"specs/{name}.toml"), vocabulary)
    except SpecError as error:
        raise UsageError(str(error)) from error
    if spec.name != name:
        raise UsageError(f"specs/{name}.toml: name: this is the place of the machine {name!r}, not {spec.name!r}")
    return Machine(spec, {name: _guard(name) for name in vocabulary.guards})


def _guard(name: str) -> Guard:
    return outcome_is(name.removeprefix(_OUTCOME_GUARD)) if name.startswith(_OUTCOME_GUARD) else fact(name)
