"""Work in threads if the system provides none."""

import threading

import pytest

from fsm_runner.util.threads import in_thread


async def test_work_without_a_thread_is_not_done_later(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OSError, match="no thread can be started"):
            await in_thread(done.append, "refused")
    await in_thread(done.append, "accepted")
    assert done == ["accepted"]
