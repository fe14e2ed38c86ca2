"""The runner's script store: one folder for each script below `{project_dir}/scripts`.

A script's folder holds `script.json` and the file that its `script_file` names. It comes from the coordinator as a
gzip tar (protocol.md, section 1.1, `GET /scripts/{name}/download`), and nobody has checked what is in that.
Everything here is synchronous: it works on files.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import msgspec

from fsm_runner.errors import UsageError
from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.wire import JsonObject
from fsm_runner.scripts.archive import BadArchive, unpack
from fsm_runner.scripts.versions import VersionInUse, put_version, remove_versions, use_version

SCRIPT_NAME_BYTES = 128
"""How long a script's name may be, in UTF-8."""
DESCRIPTION_FILE = "script.json"

_INTERPRETERS = {".py": sys.executable, ".sh": "/bin/sh"}
"""What runs a script file that has no `#!` line."""


class BadScript(UsageError):
    """A script that cannot be installed or run; the text names the script, and the file and field where it has one."""


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `script.json`; other fields are ignored."""

    script_file: str
    name: str | None = None
    """Told, but not needed: the folder's name is the script's."""
    description: str | None = None
    parameters_schema: JsonObject | None = None


def valid_script_name(name: str) -> str:
    """`name` itself, when it can be the name of one folder. Raises `BadScript`."""
    if (
        not name
        or name.startswith(".")
        or "/" in name
        or "\\" in name
        or not name.isprintable()
        or len(name.encode()) > SCRIPT_NAME_BYTES
    ):
        raise BadScript(
            f"{name!a} cannot be the name of a script: a name is printable text of {SCRIPT_NAME_BYTES} bytes at "
            r"most that does not begin with `.` and holds neither `/` nor `\`"
        )
    return name


def script_folder(project_dir: Path, name: str) -> Path:
    """Where the script `name` is, or would be. Raises `BadScript`."""
    return _store(project_dir) / valid_script_name(name)


def install(project_dir: Path, name: str, archive: bytes) -> None:
    """Puts the script of `archive`, a gzip tar of the folder `{name}/`, in place of the one that is there.

    Whatever is wrong with the archive, the earlier version stays as it was. Raises `BadScript`.
    """
    folder = script_folder(project_dir, name)

    def fill(incoming: Path) -> Path:
        unpack(archive, name, incoming)
        _script_file(incoming / name, name, "its archive").chmod(0o755)
        return incoming / name

    with _readable_errors(name):
        put_version(folder, fill)


def remove(project_dir: Path, name: str) -> None:
    """Removes the script; one that is not there is fine. Raises `BadScript`."""
    with _readable_errors(name):
        remove_versions(script_folder(project_dir, name))


class ScriptInUse:
    """A version of a script that stays as it is until this is closed, and the command that runs it."""

    def __init__(self, command: list[str], version: VersionInUse) -> None:
        self.command = command
        self._version = version

    def close(self) -> None:
        """May be repeated."""
        self._version.close()


def use_script(project_dir: Path, name: str) -> ScriptInUse:
    """The present version, to be run. The command is its file, after the interpreter where it does not name one itself.

    Raises `BadScript`.
    """
    folder = script_folder(project_dir, name).absolute()
    with _readable_errors(name):
        version = use_version(folder)
        if version is None:
            raise BadScript(f"script `{name}` is not installed: there is no {folder}")
        try:
            if not version.folder.is_relative_to(folder.parent.resolve()):
                raise BadScript(f"script `{name}`: {folder} is a link out of {folder.parent}")
            return ScriptInUse(_command(version.folder, name), version)
        except BaseException:
            version.close()
            raise


def _command(folder: Path, name: str) -> list[str]:
    script_file = _script_file(folder, name, str(folder))
    with script_file.open("rb") as file:
        names_its_interpreter = file.read(2) == b"#!"
    interpreter = None if names_its_interpreter else _INTERPRETERS.get(script_file.suffix)
    return [interpreter, str(script_file)] if interpreter else [str(script_file)]


def _script_file(folder: Path, name: str, shown_folder: str) -> Path:
    place = f"script `{name}`: {DESCRIPTION_FILE} in {shown_folder}"
    try:
        script = decode_json((folder / DESCRIPTION_FILE).read_bytes(), Script)
    except FileNotFoundError:
        raise BadScript(f"{place} does not exist") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadScript(f"{place}: {error}") from error
    shown = ascii(script.script_file)
    relative = PurePosixPath(script.script_file)
    if not relative.parts or relative.is_absolute() or ".." in relative.parts or not script.script_file.isprintable():
        raise BadScript(f"{place}: script_file: {shown} is not a path inside of that folder")
    file = folder / relative
    if not file.is_file():
        raise BadScript(f"{place}: script_file: there is no file {shown}")
    if not file.resolve().is_relative_to(folder.resolve()):
        raise BadScript(f"{place}: script_file: {shown} is a link out of that folder")
    return file


def _store(project_dir: Path) -> Path:
    return project_dir / "scripts"


@contextmanager
def _readable_errors(name: str) -> Iterator[None]:
    try:
        yield
    except BadArchive as error:
        raise BadScript(f"script `{name}`: {error}") from error
    except OSError as error:
        raise BadScript(f"script `{name}`: {error.filename or 'its folder'}: {error.strerror or error}") from error
