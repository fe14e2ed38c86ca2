"""Keeps the scripts of the project directory as the coordinator wants them."""

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
"""So many scripts are brought in or taken away at once: reports go over the same connections, and are not to wait."""

CHANGES_LIMIT = 10_000
"""So many changes are kept until it is their turn."""


class ScriptSync:
    """Brings scripts in and takes them away, in the order asked for per script. `aclose` ends it."""

    def __init__(self, client: CoordinatorClient, project_dir: Path, user: RunUser | None = None) -> None:
        """`user`: who executors are started as, where that is another one. The scripts are that user's then."""
        self._client = client
        self._project_dir = project_dir
        self._user = user
        self._changes: set[asyncio.Task[None]] = set()
        self._last_change: dict[str, asyncio.Task[None]] = {}
        self._turns = asyncio.Semaphore(CHANGES_AT_ONCE)

    def sync(self, names: Iterable[str]) -> None:
        self._change_all(names, self._install)

    def remove(self, names: Iterable[str]) -> None:
        self._change_all(names, self._remove)

    async def ready(self, name: str) -> None:
        """Return when no change of this script is under way; one that is not here yet is brought in.

        Raises `BadScript`, or `CoordinatorError` where it cannot be had.
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
                logger.error("{:,} scripts wait to be changed; further ones stay as they are", CHANGES_LIMIT)
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
            logger.opt(exception=defect).error("script {!r}: the update has failed with a defect of the runner", name)

    async def _after(
        self, earlier: asyncio.Task[None] | None, name: str, work: Callable[[str], Awaitable[None]]
    ) -> None:
        if earlier is not None:
            await asyncio.wait([earlier])
        try:
            async with self._turns:
                await work(name)
        except (CoordinatorError, store.BadScript, OSError) as fault:
            logger.error("script {!r} stays as it was: {}", name, fault)

    async def _install(self, name: str) -> None:
        # The name is looked at before it becomes part of a URL or a path.
        store.script_folder(self._project_dir, name)
        archive = await self._client.script_archive(name)
        await in_thread(with_rights_of, self._user, store.install, self._project_dir, name, archive)
        logger.info("script {!r} is up to date", name)

    async def _remove(self, name: str) -> None:
        await in_thread(with_rights_of, self._user, store.remove, self._project_dir, name)
        logger.info("script {!r} is gone", name)
