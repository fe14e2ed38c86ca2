"""The script store: install, use, update and remove scripts."""

import errno
import gzip
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from fsm_runner.scripts.store import (
    SCRIPT_NAME_BYTES,
    BadScript,
    install,
    remove,
    script_folder,
    use_script,
    valid_script_name,
)
from tests.support.script_archives import (
    INSTALLED,
    archive,
    description,
    file,
    files_in,
    output_of,
    script,
    script_command,
    special,
    versions_of,
)


def test_an_installed_script_runs(tmp_path: Path) -> None:
    install(tmp_path, "tidy", script())
    assert script_command(tmp_path, "tidy") == [str((tmp_path / "scripts/tidy/run.sh").resolve())]
    assert output_of(tmp_path) == "one\n"
    assert files_in(tmp_path) == INSTALLED


def test_an_archive_that_the_client_decompressed_is_accepted(tmp_path: Path) -> None:
    install(tmp_path, "tidy", gzip.decompress(script()))
    assert output_of(tmp_path) == "one\n"


def test_a_new_version_replaces_the_old_one(tmp_path: Path) -> None:
    install(tmp_path, "tidy", script(b"#!/bin/sh\necho one\n", file("tidy/data.txt")))
    install(tmp_path, "tidy", script(b"#!/bin/sh\necho two\n"))
    assert output_of(tmp_path) == "two\n"
    assert files_in(tmp_path) == INSTALLED


def test_unknown_fields_folders_and_a_leading_dot_are_accepted(tmp_path: Path) -> None:
    packed = archive(
        special("./", tarfile.DIRTYPE),
        special("./tidy", tarfile.DIRTYPE),
        file("./tidy/script.json", description("bin/run", tags=["x"], parameters_schema={"type": "object"})),
        file("./tidy/bin/run", b"#!/bin/sh\n. $(dirname $0)/../lib/words\n"),
        file("./tidy/lib/words", b"echo words\n", mode=0o777),
    )
    install(tmp_path, "tidy", packed)
    assert output_of(tmp_path) == "words\n"
    assert (tmp_path / "scripts/tidy/bin/run").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "scripts/tidy/lib/words").stat().st_mode & 0o7777 == 0o755


@pytest.mark.parametrize(
    ("script_file", "content", "before"),
    [
        ("a.py", b"print('x')", [sys.executable]),
        ("a.py", b"#!/usr/bin/env python3\nprint('x')", []),
        ("a.sh", b"echo x", ["/bin/sh"]),
        ("a.sh", b"#!/bin/sh\necho x", []),
        ("a", b"echo x", []),
    ],
)
def test_a_script_without_a_first_line_gets_its_interpreter(
    tmp_path: Path, script_file: str, content: bytes, before: list[str]
) -> None:
    packed = archive(file("tidy/script.json", description(script_file)), file(f"tidy/{script_file}", content))
    install(tmp_path, "tidy", packed)
    assert script_command(tmp_path, "tidy") == [*before, str((tmp_path / "scripts/tidy" / script_file).resolve())]


def test_the_command_is_absolute_also_for_a_relative_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    install(Path(), "tidy", script())
    assert script_command(Path(), "tidy") == [str((tmp_path / "scripts/tidy/run.sh").resolve())]


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "/a", "a\\b", "a\0b", "a\nb", "\ud800", "x" * (SCRIPT_NAME_BYTES + 1)]
)
def test_an_invalid_name_is_rejected(tmp_path: Path, name: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: valid_script_name(name),
        lambda: script_folder(tmp_path, name),
        lambda: install(tmp_path, name, script()),
        lambda: remove(tmp_path, name),
        lambda: script_command(tmp_path, name),
    ]
    for call in calls:
        with pytest.raises(BadScript, match="cannot be the name of a script"):
            call()
    assert files_in(tmp_path) == []


@pytest.mark.parametrize("name", ["tidy", "tidy-up_2.0", "aufräumen", "x" * SCRIPT_NAME_BYTES, "with space"])
def test_valid_names(tmp_path: Path, name: str) -> None:
    packed = archive(file(f"{name}/script.json", description()), file(f"{name}/run.sh", b"echo one"))
    install(tmp_path, name, packed)
    assert script_command(tmp_path, name)[-1] == str((script_folder(tmp_path, name) / "run.sh").resolve())


def test_a_removed_script_is_gone_and_may_be_removed_again(tmp_path: Path) -> None:
    remove(tmp_path, "tidy")
    install(tmp_path, "tidy", script())
    remove(tmp_path, "tidy")
    remove(tmp_path, "tidy")
    assert files_in(tmp_path) == ["scripts"]
    with pytest.raises(BadScript, match=f"not installed: {tmp_path}/scripts/tidy does not exist"):
        script_command(tmp_path, "tidy")


def test_a_missing_script_leaves_no_files(tmp_path: Path) -> None:
    with pytest.raises(BadScript, match="not installed"):
        script_command(tmp_path, "tidy")
    assert files_in(tmp_path) == []


def test_a_broken_script_names_file_and_field(tmp_path: Path) -> None:
    install(tmp_path, "tidy", script())
    folder = tmp_path / "scripts/tidy"
    (folder / "script.json").write_text('{"name": "tidy", "script_file": 5}')
    with pytest.raises(BadScript, match=rf"script.json in {folder.resolve()}: .*\$.script_file"):
        script_command(tmp_path, "tidy")


def test_a_link_out_of_the_folder_is_not_run(tmp_path: Path) -> None:
    install(tmp_path, "tidy", script())
    run = tmp_path / "scripts/tidy/run.sh"
    run.unlink()
    run.symlink_to("/bin/sh")
    with pytest.raises(BadScript, match="link that leaves that folder"):
        script_command(tmp_path, "tidy")


def test_an_unwritable_store_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "scripts").write_text("a file")
    with pytest.raises(BadScript, match=r"scripts: (File exists|Not a directory)"):
        install(tmp_path, "tidy", script())


def test_a_script_in_use_keeps_its_version(tmp_path: Path) -> None:
    install(tmp_path, "tidy", script(b"#!/bin/sh\n. $(dirname $0)/words\n", file("tidy/words", b"echo one\n")))
    used = use_script(tmp_path, "tidy")
    install(tmp_path, "tidy", script(b"#!/bin/sh\necho two\n"))
    assert output_of(tmp_path) == "two\n"
    remove(tmp_path, "tidy")
    assert subprocess.run(used.command, capture_output=True, text=True, check=True).stdout == "one\n"
    used.close()
    install(tmp_path, "tidy", script())
    assert len(versions_of(tmp_path, "tidy")) == 1


def test_a_folder_that_a_user_created_is_used_and_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "scripts/tidy"
    folder.mkdir(parents=True)
    (folder / "script.json").write_bytes(description())
    (folder / "run.sh").write_text("echo by hand\n")
    used = use_script(tmp_path, "tidy")
    assert output_of(tmp_path) == "by hand\n"
    install(tmp_path, "tidy", script())
    assert output_of(tmp_path) == "one\n"
    assert len(versions_of(tmp_path, "tidy")) == 2
    used.close()
    remove(tmp_path, "tidy")
    assert list((tmp_path / "scripts").iterdir()) == []


def interrupt(monkeypatch: pytest.MonkeyPatch, when: Callable[[Path, Path], bool]) -> None:
    """Make a rename fail if `when` returns true, as if the process had ended there."""
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if when(self, target):
            raise OSError(errno.EIO, "Input/output error", str(self))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)


@pytest.mark.parametrize("part", [".incoming-", ".link-"])
def test_an_install_that_fails_leaves_the_old_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    install(tmp_path, "tidy", script())
    with monkeypatch.context() as patches:
        interrupt(patches, lambda source, _: part in str(source))
        with pytest.raises(BadScript, match="Input/output error"):
            install(tmp_path, "tidy", script(b"#!/bin/sh\necho two\n"))
    assert output_of(tmp_path) == "one\n"
    assert files_in(tmp_path) == INSTALLED
    install(tmp_path, "tidy", script(b"#!/bin/sh\necho three\n"))
    assert output_of(tmp_path) == "three\n"
    assert len(versions_of(tmp_path, "tidy")) == 1


def test_an_install_over_a_folder_that_was_interrupted_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scripts/tidy").mkdir(parents=True)
    with monkeypatch.context() as patches:
        interrupt(patches, lambda source, _: ".link-" in str(source))
        with pytest.raises(BadScript, match="Input/output error"):
            install(tmp_path, "tidy", script())
    assert not (tmp_path / "scripts/tidy").exists()
    assert output_of(tmp_path) == "one\n"
    assert files_in(tmp_path) == INSTALLED


def test_removing_also_removes_files_of_an_interrupted_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "tidy", script())
    with monkeypatch.context() as patches:
        interrupt(patches, lambda source, _: ".link-" in str(source))
        with pytest.raises(BadScript, match="Input/output error"):
            install(tmp_path, "tidy", script(b"#!/bin/sh\necho two\n"))
    remove(tmp_path, "tidy")
    assert list((tmp_path / "scripts").iterdir()) == []


def test_a_link_at_the_path_of_a_script_is_replaced_and_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").touch()
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/tidy").symlink_to(elsewhere)
    install(tmp_path, "tidy", script())
    assert output_of(tmp_path) == "one\n"
    assert files_in(elsewhere) == ["precious"]
    assert files_in(tmp_path / "scripts") == ["tidy", "tidy/run.sh", "tidy/script.json"]


def test_a_link_out_of_the_store_is_not_run(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "script.json").write_bytes(description())
    (elsewhere / "run.sh").touch()
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/tidy").symlink_to(elsewhere)
    with pytest.raises(BadScript, match="link that leaves"):
        use_script(tmp_path, "tidy")


def test_installs_and_reads_at_once_see_one_version_or_the_other(tmp_path: Path) -> None:
    install(tmp_path, "tidy", script())
    failures: list[BaseException] = []

    def work(action: Callable[[], object]) -> None:
        try:
            for _ in range(30):
                action()
        except BadScript as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(lambda: install(tmp_path, "tidy", script()),)) for _ in range(2)]
    threads += [threading.Thread(target=work, args=(lambda: script_command(tmp_path, "tidy"),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert files_in(tmp_path) == INSTALLED
