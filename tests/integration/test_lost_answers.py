"""What `approve` and `rerun` say if the runner ends before it answers, and which sockets they use."""

import os
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from fsm_runner.app.control_socket import SOCKET_FILE
from fsm_runner.app.local_socket import SINGLE_RUN_PREFIX, sockets_of_single_runs
from fsm_runner.cli import rerun as rerun_module
from fsm_runner.cli.approvals import decide
from fsm_runner.errors import EXIT_FAILED, FsmRunnerError
from fsm_runner.protocol.approvals import RunnerApproval, RunnerApprovals
from fsm_runner.protocol.json_text import encode_json
from tests.support.control import listed
from tests.support.watch import PATIENCE_S


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))


@contextmanager
def answering(folder: Path, *answers: bytes) -> Iterator[None]:
    """A runner that gives these answers, one for each connection, and then ends."""
    with socket.socket(socket.AF_UNIX) as listener, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # because the whole path may be too long for a socket
        listener.bind(SOCKET_FILE)
        listener.listen()
        listener.settimeout(PATIENCE_S)

        def answer() -> None:
            for each in answers:
                connection, _ = listener.accept()
                with connection, connection.makefile("rb") as request:
                    request.readline()
                    connection.sendall(each)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield
        finally:
            thread.join(PATIENCE_S)


def test_approve_says_that_the_decision_may_count(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "0"
    folder.mkdir(parents=True)
    approvals = RunnerApprovals([RunnerApproval(**msgspec.structs.asdict(listed()))])
    list_answer = encode_json({"value": approvals}) + b"\n"
    with answering(folder, list_answer, b""), pytest.raises(FsmRunnerError, match="may count nevertheless") as lost:
        decide(tmp_path / "state", None, "run_1", approved=True, comment="")
    assert lost.value.exit_code == EXIT_FAILED


def test_rerun_says_that_the_new_run_may_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rerun_module, "_journal_of", lambda *_: tmp_path / "journal.sqlite")
    with answering(tmp_path, b""), pytest.raises(FsmRunnerError, match="The new run may exist nevertheless") as lost:
        rerun_module.rerun(tmp_path, "run_1", "work", None)
    assert lost.value.exit_code == EXIT_FAILED


def test_only_private_folders_of_this_user_have_sockets_of_single_runs(tmp_path: Path) -> None:
    found = {}
    for name, mode in {
        "own": 0o700,
        "for all": 0o777,
        "of the group": 0o770,
        "link": 0o700,
        "of another": 0o700,
    }.items():
        folder = tmp_path / "tmp" / f"{SINGLE_RUN_PREFIX}{name}"
        target = tmp_path / "target" if name == "link" else folder
        (target / "0").mkdir(parents=True)
        (target / "0" / SOCKET_FILE).touch()
        target.chmod(mode)
        if name == "link":
            folder.symlink_to(target)
        if name == "of another" and os.geteuid() == 0:
            os.chown(folder, 65_534, -1)
        found[name] = folder / "0" / SOCKET_FILE
    own = [found["own"]] + ([] if os.geteuid() == 0 else [found["of another"]])
    assert sockets_of_single_runs(SOCKET_FILE) == sorted(own)
    (found["own"].parent).chmod(stat.S_IRWXU | stat.S_IWOTH)
    assert found["own"] not in sockets_of_single_runs(SOCKET_FILE)
