"""The script store: a folder for each script below `{project_dir}/scripts`.

A script's folder contains `script.json` and the file that its `script_file` names. It comes from the coordinator as a
gzip tar (protocol.md, section 1.1, `GET /scripts/{name}/download`), whose content is not trusted. All functions block.
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
"""The maximum length of a script's name in UTF-8."""
DESCRIPTION_FILE = "script.json"

_INTERPRETERS = {".py": sys.executable, ".sh": "/bin/sh"}
"""The interpreters of script files without a `#!` line."""


class BadScript(UsageError):
    """A script cannot be installed or run. The message names the script and, if known, the file and field."""


class Script(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `script.json`; other fields are ignored."""

    script_file: str
    name: str | None = None
    """Informational. The folder's name is the script's name."""
    description: str | None = None
    parameters_schema: JsonObject | None = None


def valid_script_name(name: str) -> str:
    """Return `name` if it is a valid folder name. Raises `BadScript`."""
    if (
        not name
        or name.startswith(".")
        or "/" in name
        or "\\" in name
        or not name.isprintable()
        or len(name.encode()) > SCRIPT_NAME_BYTES
    ):
        raise BadScript(
            f"{name!a} cannot be the name of a script: a name is printable text of at most {SCRIPT_NAME_BYTES} bytes "
            r"that does not begin with `.` and contains neither `/` nor `\`"
        )
    return name


def script_folder(project_dir: Path, name: str) -> Path:
    """Return the folder of the script, which need not exist. Raises `BadScript`."""
    return project_dir / "scripts" / valid_script_name(name)


def install(project_dir: Path, name: str, archive: bytes) -> None:
    """Install or replace the script from `archive`, a gzip tar of the folder `{name}/`.

    Raises `BadScript`; an earlier version then remains unchanged.
    """
    folder = script_folder(project_dir, name)

    def fill(incoming: Path) -> Path:
        unpack(archive, name, incoming)
        _script_file(incoming / name, name, "its archive").chmod(0o755)
        return incoming / name

    with _as_bad_script(name):
        put_version(folder, fill)


def remove(project_dir: Path, name: str) -> None:
    """Remove the script if it exists. Raises `BadScript`."""
    with _as_bad_script(name):
        remove_versions(script_folder(project_dir, name))


class ScriptInUse:
    """A version of a script that is not removed until this is closed, and the command that runs it."""

    def __init__(self, command: list[str], version: VersionInUse) -> None:
        self.command = command
        self._version = version

    def close(self) -> None:
        """Release the version. Can be called repeatedly."""
        self._version.close()


def use_script(project_dir: Path, name: str) -> ScriptInUse:
    """Return the current version of the script, protected from removal. Raises `BadScript`.

    The command is the script file, preceded by an interpreter if the file does not name one itself.
    """
    folder = script_folder(project_dir, name).absolute()
    with _as_bad_script(name):
        version = use_version(folder)
        if version is None:
            raise BadScript(f"script `{name}` is not installed: {folder} does not exist")
        try:
            if not version.folder.is_relative_to(folder.parent.resolve()):
                raise BadScript(f"script `{name}`: {folder} is a link that leaves {folder.parent}")
            return ScriptInUse(_command(version.folder, name), version)
        except BaseException:
            version.close()
            raise


def _command(folder: Path, name: str) -> list[str]:
    script_file = _script_file(folder, name, str(folder))
    with script_file.open("rb") as file:
        has_interpreter_line = file.read(2) == b"#!"
    interpreter = None if has_interpreter_line else _INTERPRETERS.get(script_file.suffix)
    return [interpreter, str(script_file)] if interpreter else [str(script_file)]


def _script_file(folder: Path, name: str, folder_name: str) -> Path:
    place = f"script `{name}`: {DESCRIPTION_FILE} in {folder_name}"
    try:
        script = decode_json((folder / DESCRIPTION_FILE).read_bytes(), Script)
    except FileNotFoundError:
        raise BadScript(f"{place} does not exist") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadScript(f"{place}: {error}") from error
    quoted = ascii(script.script_file)
    relative = PurePosixPath(script.script_file)
    if not relative.parts or relative.is_absolute() or ".." in relative.parts or not script.script_file.isprintable():
        raise BadScript(f"{place}: script_file: {quoted} is not a path inside that folder")
    file = folder / relative
    if not file.is_file():
        raise BadScript(f"{place}: script_file: {quoted} does not exist")
    if not file.resolve().is_relative_to(folder.resolve()):
        raise BadScript(f"{place}: script_file: {quoted} is a link that leaves that folder")
    return file


@contextmanager
def _as_bad_script(name: str) -> Iterator[None]:
    try:
        yield
    except BadArchive as error:
        raise BadScript(f"script `{name}`: {error}") from error
    except OSError as error:
        raise BadScript(f"script `{name}`: {error.filename or 'its folder'}: {error.strerror or error}") from error
