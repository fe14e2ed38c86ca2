"""Scripts that runners download: a folder with one subfolder per script (protocol.md, sections 1.1 and 2.1)."""

import gzip
import io
import tarfile
from pathlib import Path

import msgspec

from fsm_runner.config.paths import visible
from fsm_runner.coordinator_server.matching import Demands, demands_from
from fsm_runner.errors import UsageError
from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.wire import JsonObject

DESCRIPTION_FILE = "script.json"


class _ScriptDescription(msgspec.Struct, frozen=True):
    script_file: str
    demands: JsonObject = {}


class Script(msgspec.Struct, frozen=True):
    name: str
    description_file: Path
    program_file: Path
    program_name: str
    demands: Demands

    def archive(self) -> bytes:
        """Return a gzip tar of both files. The same files give the same bytes. Raises OSError."""
        packed = io.BytesIO()
        with (
            gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped,
            tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
        ):
            _add(tar, f"{self.name}/{DESCRIPTION_FILE}", self.description_file, 0o644)
            _add(tar, f"{self.name}/{self.program_name}", self.program_file, 0o755)
        return packed.getvalue()


def _add(tar: tarfile.TarFile, name: str, file: Path, mode: int) -> None:
    content = file.read_bytes()
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = mode
    tar.addfile(member, io.BytesIO(content))


def load_scripts(folder: Path) -> dict[str, Script]:
    """Load the scripts of `{folder}/{name}/script.json`. Raises `UsageError` that names file and field.

    A subfolder without that file, such as `__pycache__`, is ignored.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder of scripts")
    return {file.parent.name: _load_script(file.parent) for file in visible(folder, f"*/{DESCRIPTION_FILE}")}


def _load_script(folder: Path) -> Script:
    file = folder / DESCRIPTION_FILE
    try:
        description = decode_json(file.read_bytes(), _ScriptDescription)
        demands = demands_from(description.demands)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read: {error.strerror}") from None
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise UsageError(f"{file}: {error}") from None
    program = folder / description.script_file
    if not _is_inside(program, folder) or not program.is_file():
        raise UsageError(f"{file}: script_file: {description.script_file!r} is not a file in {folder}")
    return Script(
        name=folder.name,
        description_file=file,
        program_file=program,
        program_name=program.relative_to(folder).as_posix(),
        demands=demands,
    )


def _is_inside(file: Path, folder: Path) -> bool:
    try:
        return ".." not in file.relative_to(folder).parts and file.resolve().is_relative_to(folder.resolve())
    except ValueError:
        # The path is absolute and elsewhere, or no file system can have it.
        return False
