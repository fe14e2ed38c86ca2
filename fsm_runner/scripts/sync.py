"""Installs and removes the scripts of the project directory at the coordinator's request."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from loguru import logger

from fsm_runner.coordinator_client.client import CoordinatorClient
from fsm_runner.coordinator_client.errors import CoordinatorError
from fsm_runner.process.user import RunUser, with_rights_of
from fsm_runner.scripts import store
from fsm_runner.util.threads import in_thread

CHANGES_AT_ONCE = 4
"""The number of concurrent script changes, limited because reports share the connections."""

CHANGES_LIMIT = 10_000
"""The maximum number of pending changes. Further ones are dropped."""


class ScriptSync:
    """Changes scripts in the background. Changes of the same script keep their order. `aclose` cancels them."""

    def __init__(self, client: CoordinatorClient, project_dir: Path, user: RunUser | None = None) -> None:
        """`user` is the user that executors run as, if it is not the runner's own. It then owns the scripts."""
        self._client = client
        self._project_dir = project_dir
        self._user = user
        self._changes: set[asyncio.Task[None]] = set()
        self._last_change: dict[str, asyncio.Task[None]] = {}
        self._slots = asyncio.Semaphore(CHANGES_AT_ONCE)

    def sync(self, names: Iterable[str]) -> None:
        self._change_all(names, self._install)

    def remove(self, names: Iterable[str]) -> None:
        self._change_all(names, self._remove)

    async def ready(self, name: str) -> None:
        """Wait for pending changes of this script, and install it if it is missing.

        Raises `BadScript`, or `CoordinatorError` if the download fails.
        """
        change = self._last_change.get(name)
        if change is not None:
            await asyncio.wait([change])
        if not store.script_folder(self._project_dir, name).is_dir():
            await self._install(name)

    async def aclose(self) -> None:
        changes = list(self._changes)
        for change in changes:
            change.cancel()
        if changes:
            await asyncio.wait(changes)

    def _change_all(self, names: Iterable[str], work: Callable[[str], Awaitable[None]]) -> None:
        for name in names:
            if len(self._changes) >= CHANGES_LIMIT:
                logger.error("{:,} script changes are pending; further ones are dropped", CHANGES_LIMIT)
                return
            self._change(name, work)

    def _change(self, name: str, work: Callable[[str], Awaitable[None]]) -> None:
        change = asyncio.create_task(self._after(self._last_change.get(name), name, work), name=f"script {name}")
        self._changes.add(change)
        self._last_change[name] = change
        change.add_done_callback(lambda ended: self._forget(name, ended))

    def _forget(self, name: str, ended: asyncio.Task[None]) -> None:
        self._changes.discard(ended)
        if self._last_change.get(name) is ended:
            del self._last_change[name]
        if not ended.cancelled() and (defect := ended.exception()) is not None:
            logger.opt(exception=defect).error("script {!r}: the change failed with an internal error", name)

    async def _after(
        self, earlier: asyncio.Task[None] | None, name: str, work: Callable[[str], Awaitable[None]]
    ) -> None:
        if earlier is not None:
            await asyncio.wait([earlier])
        try:
            async with self._slots:
                await work(name)
        except (CoordinatorError, store.BadScript, OSError) as fault:
            logger.error("script {!r} was not changed: {}", name, fault)

    async def _install(self, name: str) -> None:
        # Validates the name before it becomes part of a URL or a path.
        store.script_folder(self._project_dir, name)
        archive = await self._client.script_archive(name)
        await in_thread(with_rights_of, self._user, store.install, self._project_dir, name, archive)
        logger.info("script {!r}: installed", name)

    async def _remove(self, name: str) -> None:
        await in_thread(with_rights_of, self._user, store.remove, self._project_dir, name)
        logger.info("script {!r}: removed", name)
