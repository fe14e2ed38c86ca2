"""`fsm-runner machine check`."""

from pathlib import Path

from fsm_runner.cli.output import show
from fsm_runner.config.paths import find_all
from fsm_runner.errors import EXIT_FAILED, EXIT_OK, UsageError
from fsm_runner.machine.check import check
from fsm_runner.machine.defects import Defect, SpecError
from fsm_runner.machine.spec_file import read
from fsm_runner.runtime.actors.interfaces import ACTOR_INTERFACES


def own_specs() -> dict[str, Path]:
    """The program's own specs, by name; the paths are short ones where they are below the working directory."""
    return {path.stem: _short(path) for path in find_all("specs/*.toml").values()}


def _short(path: Path) -> Path:
    try:
        return path.relative_to(Path.cwd())
    except (ValueError, OSError):  # it lies elsewhere; there is no working directory any more
        return path


def find_spec(file: str) -> Path:
    """The path of a spec that is given by path or as the name of an own one; `./run` is never the latter.

    Raises `UsageError` when there is no such file.
    """
    own = own_specs()
    if file in own:
        return own[file]
    path = Path(file)
    if not path.exists():
        raise UsageError(f"{file}: there is no such file, and no own spec of this name ({', '.join(own) or 'none'})")
    if path.is_dir():
        raise UsageError(f"{file}: this is a directory, not a spec")
    return path


def check_specs(file: str | None) -> int:
    """Print the defects of one spec, or of all own ones, and give the exit code."""
    own = own_specs()
    if missing := ACTOR_INTERFACES.keys() - own.keys():
        raise UsageError(f"neither a home nor what is bundled has specs/{min(missing)}.toml")
    paths = list(own.values()) if file is None else [find_spec(file)]
    defects = [defect for path in paths for defect in defects_of(path, own)]
    for defect in defects:
        show(defect)
    return EXIT_FAILED if defects else EXIT_OK


def defects_of(path: Path, own: dict[str, Path]) -> tuple[Defect, ...]:
    """All defects of a spec, by what the actor of its machine can do, where there is one."""
    try:
        source = read(path)
    except SpecError as error:
        return error.defects
    name = source.spec.name
    if own.get(path.stem) == path and path.stem in ACTOR_INTERFACES and name not in ("", path.stem):
        message = f"this is the place of the machine {path.stem!r}, not {name!r}"
        return (Defect(str(path), source.lines.of(("name",)), "name", message),)
    return check(source, ACTOR_INTERFACES.get(name))
