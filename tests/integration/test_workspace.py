"""The error of a run that cannot work in its project directory."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fsm_runner.executors.interface import RunRefused
from fsm_runner.runtime.workspace import check_workspace

OTHER_UID = 54_321
"""The user of the check if the tests run as root, whom no permission stops."""

CHECKS = """
import os, sys
from pathlib import Path
from fsm_runner.executors.interface import RunRefused
from fsm_runner.runtime.workspace import check_workspace
folder, uid = sys.argv[1:]
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(int(uid))
    os.setuid(int(uid))
try:
    check_workspace(Path(folder))
except RunRefused as refusal:
    print(refusal)
"""


def checker_uid() -> int:
    return OTHER_UID if os.getuid() == 0 else os.getuid()


def refusal(folder: Path) -> str:
    """What a runner says of it that has no more rights than other users; empty where it can work there."""
    command = [sys.executable, "-c", CHECKS, str(folder), str(OTHER_UID)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True).stdout.rstrip("\n")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="workspace-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def test_a_directory_that_can_be_read_written_and_entered_is_fine(place: Path) -> None:
    workspace = place / "workspace"
    workspace.mkdir()
    workspace.chmod(0o777)
    assert refusal(workspace) == ""


def test_a_link_to_a_directory_is_fine(place: Path, tmp_path: Path) -> None:
    (place / "link").symlink_to(tmp_path)
    check_workspace(place / "link")


@pytest.mark.parametrize("folder", ["relative", "a/b", "", "/with\0nul"])
def test_a_path_that_is_not_absolute_is_no_workspace(folder: str) -> None:
    with pytest.raises(RunRefused, match="not an absolute path"):
        check_workspace(Path(folder))


def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    with pytest.raises(RunRefused) as refused:
        check_workspace(folder)
    assert str(refused.value) == f"project directory {folder}: there is no such directory on this runner"


def test_a_name_that_no_directory_can_have_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunRefused, match="there is no such directory"):
        check_workspace(tmp_path / ("x" * 1000))


@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_is_no_workspace(tmp_path: Path, below: str) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(RunRefused, match=f"project directory {file / below}: .* directory"):
        check_workspace(file / below)


def test_a_file_is_refused_as_workspace(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(RunRefused, match="it is a file, not a directory"):
        check_workspace(file)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused_with_its_owner_and_the_fix(place: Path) -> None:
    workspace = place / "workspace"
    workspace.mkdir(mode=0o700)
    assert refusal(workspace) == (
        f"Permission denied on workspace {workspace}: the runner (uid {OTHER_UID}) may not read, write and enter it "
        f"(it belongs to uid 0, mode drwx------): `chown {OTHER_UID} {workspace}`, or `chmod 777 {workspace}`"
    )


@pytest.mark.parametrize("mode", [0o500, 0o300, 0o600])
def test_a_directory_of_our_own_that_denies_a_right_needs_no_other_owner(place: Path, mode: int) -> None:
    workspace = place / "workspace"
    workspace.mkdir()
    if os.getuid() == 0:
        os.chown(workspace, OTHER_UID, -1)
    workspace.chmod(mode)
    said = refusal(workspace)
    workspace.chmod(0o700)
    assert said.startswith(f"Permission denied on workspace {workspace}: the runner (uid {checker_uid()}) may not ")
    assert said.endswith(f": `chmod u+rwx {workspace}`")
    assert refusal(workspace) == ""


def test_a_fix_can_be_pasted_into_a_shell(place: Path) -> None:
    workspace = place / "my work; here"
    workspace.mkdir()
    workspace.chmod(0o000)
    said = refusal(workspace)
    workspace.chmod(0o700)
    assert f"'{workspace}'`" in said


def test_a_directory_that_cannot_be_seen_is_refused_with_the_fix(place: Path) -> None:
    closed = place / "closed"
    (closed / "workspace").mkdir(parents=True)
    closed.chmod(0o000)
    said = refusal(closed / "workspace")
    closed.chmod(0o700)
    assert said == (
        f"Permission denied on workspace {closed / 'workspace'}: the runner (uid {checker_uid()}) may not see it: "
        "open the directories above it (chmod a+x)"
    )


def test_a_read_only_file_system_is_refused_with_the_fix(tmp_path: Path) -> None:
    flags = "-m" if os.getuid() == 0 else "-rm"
    mounted = 'mount -t tmpfs -o ro none "$1" && exec "$2" -c "$3" "$1" "$4"'
    arguments = [str(tmp_path), sys.executable, CHECKS, "0"]
    command = ["unshare", flags, "sh", "-c", mounted, "sh", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "unshare failed" in ended.stderr:
        pytest.skip("needs the right to make a mount namespace")
    assert ended.stdout == (
        f"Permission denied on workspace {tmp_path}: the runner (uid 0) may not write to it: its file system is "
        "read-only; mount it writable\n"
    )
