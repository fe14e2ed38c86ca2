"""Archives of scripts, valid and broken."""

import gzip
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

from fsm_runner.scripts.store import use_script


def description(script_file: object = "run.sh", **more: object) -> bytes:
    return json.dumps({"name": "tidy", "script_file": script_file, **more}).encode()


def file(name: str, content: bytes = b"", mode: int = 0o644) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    member.mode = mode
    return member, content


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = target
    return member, b""


def archive(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    # No timestamp, because it would change the ids of parametrized tests in each process.
    return gzip.compress(buffer.getvalue(), mtime=0)


def script(content: bytes = b"#!/bin/sh\necho one\n", *more: tuple[tarfile.TarInfo, bytes]) -> bytes:
    return archive(file("tidy/script.json", description()), file("tidy/run.sh", content), *more)


def script_command(project_dir: Path, name: str) -> list[str]:
    """Return the command of the script's current version."""
    used = use_script(project_dir, name)
    used.close()
    return used.command


def output_of(project_dir: Path) -> str:
    return subprocess.run(script_command(project_dir, "tidy"), capture_output=True, text=True, check=True).stdout


def files_in(folder: Path) -> list[str]:
    """Return the visible files and folders, following links."""
    found = []
    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [str(Path(place, name).relative_to(folder)) for name in (*folders, *files) if not name.startswith(".")]
    return sorted(found)


def versions_of(project_dir: Path, name: str) -> list[str]:
    folder = project_dir / "scripts" / ".versions" / name
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


INSTALLED = ["scripts", "scripts/tidy", "scripts/tidy/run.sh", "scripts/tidy/script.json"]
