"""The ownership of tasks, and the exceptions that end them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, NoReturn

from loguru import logger


async def wait_forever() -> NoReturn:
    """Wait until the task is cancelled."""
    while True:
        await asyncio.get_running_loop().create_future()


def log_defect(task: "asyncio.Task[Any]") -> None:
    """Log the exception that ended a task, as its done callback: its owner may collect the task much later."""
    if not task.cancelled() and (defect := task.exception()) is not None:
        logger.opt(exception=defect).error("the task {!r} ended with a defect", task.get_name())


@asynccontextmanager
async def background_task(work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[asyncio.Task[None]]:
    """Run `work` until the body ends. A failure of `work` is logged and leaves the body alone."""
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])
        log_defect(task)


class OwnedTasks:
    """Tasks that each work for one subject, such as a run. `aclose` cancels those that are left.

    `on_change` is called at each start and end of a task.
    """

    def __init__(self, kind: str, on_change: Callable[[], None] = lambda: None) -> None:
        self._kind = kind
        self._on_change = on_change
        self._subjects: dict[asyncio.Task[None], str] = {}

    def __len__(self) -> int:
        return len(self._subjects)

    @property
    def subjects(self) -> frozenset[str]:
        return frozenset(self._subjects.values())

    def start(self, subject: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"{self._kind} {subject}")
        self._subjects[task] = subject
        task.add_done_callback(self._end)
        self._on_change()

    async def wait_until_empty(self) -> None:
        while self._subjects:
            await asyncio.wait(set(self._subjects))
            await asyncio.sleep(0)  # until the callbacks have removed them

    async def wait_for(self, subject: str) -> None:
        """Wait until the tasks of a subject have ended and are removed."""
        while tasks := {task for task, each in self._subjects.items() if each == subject}:
            await asyncio.wait(tasks)
            await asyncio.sleep(0)

    async def aclose(self) -> None:
        """Cancel all tasks and wait for their end."""
        await self._cancel(set(self._subjects))

    def cancel_soon(self, subject: str) -> None:
        """Cancel the tasks of a subject, which may be the current one, without waiting for their end."""
        for task, each in self._subjects.items():
            if each == subject:
                task.cancel()

    async def cancel(self, subject: str) -> None:
        """Cancel the tasks of a subject and wait for their end."""
        await self._cancel({task for task, each in self._subjects.items() if each == subject})

    async def _cancel(self, tasks: set["asyncio.Task[None]"]) -> None:
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _end(self, task: "asyncio.Task[None]") -> None:
        del self._subjects[task]
        self._on_change()
        log_defect(task)
