"""The control socket of a runner: who may use it, and what it does with bad requests."""

import asyncio
import contextlib
import json
import os
import shlex
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from fsm_runner.app import control_socket, local_socket
from fsm_runner.app.control_requests import Decide, ListApprovals, handlers
from fsm_runner.app.control_socket import (
    OWN_REQUEST,
    REQUEST_LIMIT_BYTES,
    REQUEST_LIMIT_S,
    SOCKET_FILE,
    AnswerLost,
    Refused,
    ask,
    ask_all,
    serve_control,
)
from fsm_runner.errors import EXIT_FAILED, EXIT_UNRECORDED, EXIT_USAGE
from fsm_runner.process.child.child import Child
from fsm_runner.process.tree.process_tree import RUNNER_TAG_VARIABLE, TREE_TAG_VARIABLE
from fsm_runner.process.tree.rlimit_tag import rlimit_tag
from fsm_runner.process.tree.subreaper import SUBREAPER
from fsm_runner.protocol.approvals import Decided, RunnerApprovals
from fsm_runner.runtime.workflow import approvals as approvals_module
from fsm_runner.runtime.workflow.approvals import Approvals, PendingApproval
from tests.support.children import ENV, HERE, exit_of, subreaper_enabled
from tests.support.control import client, decide_request, listed, pending
from tests.support.fifo import Fifo
from tests.support.watch import PATIENCE_S

TAG = f"0123456789abcdef.{os.getpid()}"  # rlimit tags of two test processes must differ
UNPRIVILEGED_UID = 65_534


@pytest.fixture(autouse=True)
def adopted() -> Iterator[None]:
    with subreaper_enabled(exclusive=True):
        yield


@pytest.fixture
async def approvals(tmp_path: Path) -> AsyncIterator[Approvals]:
    """Those of a runner whose control socket is in `tmp_path`."""
    approvals = Approvals()
    approvals.open(pending())
    async with serve_control(tmp_path, handlers(approvals)):
        yield approvals


async def answer_of(command: list[str], folder: Path, signs: Fifo, **options: object) -> dict[str, object]:
    """What a process that no run has started gets as its answer."""
    process = await asyncio.create_subprocess_exec(
        *command,
        str(folder),
        decide_request(),
        str(signs.path),
        **options,  # type: ignore[arg-type]  # of Popen
    )
    answer = json.loads(await signs.line())
    assert await process.wait() == 0
    return dict(answer)


async def test_a_process_of_the_same_user_decides(approvals: Approvals, tmp_path: Path, signs: Fifo) -> None:
    assert stat.S_IMODE((tmp_path / SOCKET_FILE).stat().st_mode) == 0o600
    answer = await answer_of(client(), tmp_path, signs)
    assert "error" not in answer
    assert approvals.pending() == []


FROM_A_RUN = {
    "the command of the agent": "$CLIENT",
    "in another session": "setsid $CLIENT &",
    "a daemon without environment": "setsid sh -c 'env -i setsid $CLIENT &' & ",
    "a daemon without environment and without tags": (
        "setsid sh -c 'env -i prlimit --rttime=1000000:1000000 setsid $CLIENT & exit' & "
    ),
}


@pytest.mark.linux(reason="adoption of orphaned processes")
@pytest.mark.parametrize("script", FROM_A_RUN.values(), ids=FROM_A_RUN.keys())
async def test_no_process_of_a_run_decides(
    script: str, approvals: Approvals, tmp_path: Path, signs: Fifo, go: Fifo
) -> None:
    command = shlex.join([*client(), str(tmp_path), decide_request(), str(signs.path)])
    runner = tmp_path / "client"
    runner.write_text(f"#!/bin/sh\nexec {command}\n")
    runner.chmod(0o700)
    script = script.replace("$CLIENT", str(runner))
    environment = {**ENV, RUNNER_TAG_VARIABLE: TAG, "GO": str(go.path)}
    child = Child.start(["/bin/sh", "-c", f"{script}\nread line <$GO"], env=environment, cwd=HERE)
    answer = json.loads(await signs.line())
    go.write_line()
    await exit_of(child)
    assert answer == {"error": OWN_REQUEST}
    assert len(approvals.pending()) == 1


KEEPING_ITS_PARENT = ("sh", "-c", '"$@" & wait', "sh")
UNTAGGED = (*KEEPING_ITS_PARENT, "env", "-i", "prlimit", "--rttime=unlimited:")
AS_A_RUNNER = "from fsm_runner.process.tree import rlimit_tag; rlimit_tag.tag_this_runner(); import os, sys; "
FROM_ANOTHER_RUN = {
    "by its environment": ["env", f"{RUNNER_TAG_VARIABLE}=x.y"],
    "by the tree in its environment": ["env", f"{TREE_TAG_VARIABLE}=x.1"],
    "by its limit": ["prlimit", f"--rttime={rlimit_tag('x.y', 5)}:"],
    "by the environment of its parent": ["env", f"{RUNNER_TAG_VARIABLE}=x.y", *UNTAGGED],
    "by the limit of its parent": ["prlimit", f"--rttime={rlimit_tag('x.y', 5)}:", *UNTAGGED],
    "by the tag of its runner": [
        *(sys.executable, "-c", AS_A_RUNNER + "os.execvp(sys.argv[1], sys.argv[1:])"),
        *UNTAGGED,
    ],
}


@pytest.mark.linux(reason="rlimit tags")
@pytest.mark.parametrize("words", FROM_ANOTHER_RUN.values(), ids=FROM_ANOTHER_RUN.keys())
async def test_a_process_of_any_runner_is_recognized(
    words: list[str], approvals: Approvals, tmp_path: Path, signs: Fifo
) -> None:
    assert await answer_of([*words, *client()], tmp_path, signs) == {"error": OWN_REQUEST}
    assert "error" not in await answer_of([*UNTAGGED, *client()], tmp_path, signs)


@pytest.mark.linux(reason="SO_PEERPIDFD")
async def test_a_client_whose_process_has_ended_is_refused(approvals: Approvals, tmp_path: Path, signs: Fifo) -> None:
    # The child keeps the connection of its parent.
    command = client(before="os.fork() and os._exit(0)")
    with pytest.MonkeyPatch.context() as patch:
        # The identification happens after the end, as in a runner whose event loop was busy.
        identified = control_socket.ControlServer._identified

        def later(self: object, writer: asyncio.StreamWriter) -> object:
            process.wait(PATIENCE_S)
            return identified(self, writer)  # type: ignore[arg-type]  # the method of the class

        patch.setattr(control_socket.ControlServer, "_identified", later)
        words = [*command, str(tmp_path), decide_request(), str(signs.path)]
        process = subprocess.Popen(words)  # noqa: ASYNC220 - it ends while the event loop is busy
        answer = json.loads(await signs.line())
    for orphan in SUBREAPER.possible_orphans():
        os.waitpid(orphan, 0)  # noqa: ASYNC222 - it has sent its answer
    assert "ended" in answer["error"]
    assert len(approvals.pending()) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: another user")
@pytest.mark.parametrize("mode", [None, 0o666])
async def test_another_user_may_make_no_requests(
    mode: int | None, approvals: Approvals, tmp_path: Path, signs: Fifo
) -> None:
    os.chmod(tmp_path, 0o755)  # noqa: PTH101 - quick
    if mode is not None:
        (tmp_path / SOCKET_FILE).chmod(mode)
    command = client(first=f"os.setuid({UNPRIVILEGED_UID})")
    process = await asyncio.create_subprocess_exec(*command, str(tmp_path), decide_request(), str(signs.path))
    answer = await signs.line()
    assert await process.wait() == 0
    assert answer == "denied" if mode is None else "only the user of the runner" in answer
    assert len(approvals.pending()) == 1


async def test_requests_are_answered_at_once_while_others_wait(approvals: Approvals, tmp_path: Path) -> None:
    path = tmp_path / SOCKET_FILE
    silent = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    try:
        os.chdir(tmp_path)  # because the whole path may be too long for a socket
        for each in silent:
            each.connect(SOCKET_FILE)
        answer = await asyncio.wait_for(ask(path, ListApprovals(), RunnerApprovals), PATIENCE_S)
    finally:
        os.chdir(HERE)
        for each in silent:
            each.close()
    assert answer is not None
    assert [each.run_id for each in answer.approvals] == ["run_1"]


FLOOD = """
import os, socket, sys
folder, _, signs = sys.argv[1:]
os.chdir(folder)
sign = os.open(signs, os.O_WRONLY)
kept = []
while True:
    kept.append(socket.socket(socket.AF_UNIX))
    kept[-1].connect("control.sock")
    if len(kept) == 100:
        os.write(sign, b"flooded\\n")
    del kept[:-500]
"""


@pytest.mark.linux(reason="rlimit tags")
@pytest.mark.parametrize(
    "words",
    [["prlimit", f"--rttime={rlimit_tag('x.y', 5)}:"], ["env", f"{RUNNER_TAG_VARIABLE}=x.y", *UNTAGGED]],
    ids=["by its limit", "by its parent"],
)
async def test_clients_that_are_refused_leave_room_for_others(
    words: list[str], approvals: Approvals, tmp_path: Path, signs: Fifo
) -> None:
    command = [*words, sys.executable, "-I", "-S", "-c", FLOOD, str(tmp_path), "", str(signs.path)]
    flood = await asyncio.create_subprocess_exec(*command, start_new_session=True)
    try:
        assert await signs.line() == "flooded"
        for _ in range(5):
            assert await ask(tmp_path / SOCKET_FILE, ListApprovals(), RunnerApprovals, REQUEST_LIMIT_S - 1) is not None
    finally:
        os.killpg(flood.pid, signal.SIGKILL)
        await flood.wait()


@pytest.mark.linux(reason="full queues of connections")
async def test_a_runner_that_accepts_no_connection_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_socket, "CONNECT_LIMIT_S", 0.1)
    monkeypatch.chdir(tmp_path)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(SOCKET_FILE)
        listener.listen(1)
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
                waiting.setblocking(False)
                waiting.connect(SOCKET_FILE)
        answers = await ask_all([tmp_path / SOCKET_FILE], ListApprovals(), RunnerApprovals)
    assert "too many other connections wait" in str(answers[tmp_path / SOCKET_FILE])


@pytest.mark.parametrize(
    "request_line",
    [b"", b"{}", b"[]", b"nonsense", b"\xff\xfe", b'{"request": "rm"}', b'{"request": "approve"}', b"[" * 5000],
)
async def test_an_invalid_request_is_refused(
    request_line: bytes, approvals: Approvals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    reader, writer = await asyncio.open_unix_connection(SOCKET_FILE)
    writer.write(request_line + b"\n")
    answer = json.loads(await reader.readline())
    writer.close()
    assert answer["error"].startswith("the request is invalid")
    assert answer["exit_code"] == EXIT_USAGE


async def test_a_request_that_is_too_long_or_too_slow_is_refused(
    approvals: Approvals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_socket, "REQUEST_LIMIT_S", 0.2)
    monkeypatch.chdir(tmp_path)
    comment = "x" * 10_000_000

    def send_all() -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE_S)
            connection.connect(SOCKET_FILE)
            with contextlib.suppress(OSError):  # the runner closes the connection before its end
                connection.sendall(decide_request(comment).encode() + b"\n")
            return connection.makefile("rb").readline()

    answer = json.loads(await asyncio.to_thread(send_all))
    assert answer["error"] == f"the request is longer than {REQUEST_LIMIT_BYTES:,} bytes"
    reader, writer = await asyncio.open_unix_connection(SOCKET_FILE)
    writer.write(b'{"request"')
    assert json.loads(await reader.readline()) == {"error": "the request took too long"}
    writer.close()
    assert len(approvals.pending()) == 1


async def test_a_runner_that_hangs_or_answers_nonsense_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_socket, "ALL_LIMIT_S", 0.2)
    monkeypatch.chdir(tmp_path)
    for said in (b"", b"no JSON\n", b"[]\n", b'{"value": 1}\n', None):

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, said: bytes | None = said) -> None:
            if said is None:
                await reader.read()  # until the client gives up
            else:
                writer.write(said)
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_unix_server(answer, SOCKET_FILE):
            path = tmp_path / SOCKET_FILE
            answers = await ask_all([path, tmp_path / "none"], ListApprovals(), RunnerApprovals)
        assert isinstance(answers.pop(path), AnswerLost)
        assert answers == {}


async def test_of_two_answers_at_once_the_first_one_counts(approvals: Approvals, tmp_path: Path) -> None:
    requests = [Decide(run_id="run_1", approved=each) for each in (True, False)]
    answers = await asyncio.gather(
        *(ask(tmp_path / SOCKET_FILE, each, Decided) for each in requests), return_exceptions=True
    )
    (won,) = (each for each in answers if isinstance(each, Decided))
    (lost,) = (each for each in answers if isinstance(each, Refused))
    assert f"already {'approved' if won.approved else 'denied'} by {won.by} at {won.at}" in str(lost)


async def test_a_decision_that_is_not_on_disk_has_its_own_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approvals_module, "RECORD_LIMIT_S", 0.02)
    approvals = Approvals()
    approvals.open(PendingApproval(listed(), None, lambda _: None))
    async with serve_control(tmp_path, handlers(approvals)):
        path = tmp_path / SOCKET_FILE
        for exit_code, text in ((EXIT_UNRECORDED, "unless the runner is killed"), (EXIT_FAILED, "already approved")):
            with pytest.raises(Refused, match=text) as refusal:
                await ask(path, Decide(run_id="run_1", approved=True), Decided)
            assert refusal.value.exit_code == exit_code
        answer = await ask(path, ListApprovals(), RunnerApprovals)
    assert answer is not None
    assert [each.unrecorded is not None for each in answer.approvals] == [True]
