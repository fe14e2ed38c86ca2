"""`fsm-runner machine check`."""

import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from fsm_runner.cli.output import show
from fsm_runner.config.paths import find_all
from fsm_runner.errors import EXIT_FAILED, EXIT_OK, UsageError
from fsm_runner.machine.check import check
from fsm_runner.machine.defects import Defect, SpecError
from fsm_runner.machine.spec import ActorInterface
from fsm_runner.machine.spec_file import read
from fsm_runner.runtime.actors.interfaces import ACTOR_INTERFACES


def own_specs() -> dict[str, Path]:
    """Return the program's own specs by name. Paths below the working directory are relative."""
    own = {path.stem: path for path in find_all("specs/*.toml").values()}
    with suppress(OSError):  # the working directory was removed
        here = Path.cwd()
        return {name: path.relative_to(here) if path.is_relative_to(here) else path for name, path in own.items()}
    return own


def find_spec(file: str) -> Path:
    """Return the path of a spec, given as a path or as the name of one of the program's own; `./run` is always a path.

    Raises `UsageError` if there is no such file, or it is not a regular one.
    """
    own = own_specs()
    if file in own:
        return own[file]
    try:
        mode = Path(file).stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        known = ", ".join(own) or "none"
        raise UsageError(f"{file}: there is no such file, and no own spec of this name ({known})") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
        raise UsageError(f"{file}: this is {kind}, so it cannot be a spec")
    return Path(file)


def check_specs(files: Iterable[str]) -> int:
    """Print the defects of these specs, or of all of the program's own if there is none, and return the exit code."""
    own = own_specs()
    if missing := ACTOR_INTERFACES.keys() - own.keys():
        raise UsageError(f"neither a home nor the package has specs/{min(missing)}.toml")
    defects: list[Defect] = []
    for path in [find_spec(file) for file in files] or own.values():
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
