"""Opens what lets a later process of the same runner recover after a kill: journal, process tags, watchdog."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec

from fsm_runner.journal.identity import RunnerIdentity, journal_folder
from fsm_runner.journal.journal import Journal
from fsm_runner.process.tree.process_tree import RUNNER_TAG_VARIABLE, runner_tag
from fsm_runner.runtime.actors.actor import Inbox
from fsm_runner.runtime.recovery import Sweep


class DurableState(msgspec.Struct, frozen=True):
    """The state that a killed process of the runner leaves to the next one."""

    journal: Journal
    tags: Mapping[str, str] = {}
    """Variables in the environment of all processes that this runner starts."""
    sweep: Sweep = lambda: 0
    problem: Callable[[], str | None] = lambda: None
    """Returns what a kill of this process would lose now; None if it would lose nothing."""


@asynccontextmanager
async def open_durable_state(
    state_dir: Path | None, identity: RunnerIdentity, redacted: Callable[[str], str], inbox: Inbox
) -> AsyncIterator[DurableState]:
    """Open the journal in `state_dir` and start the watchdog. With None, nothing outlives the process.

    `inbox` is the runner's: the journal reports there whether it can be written. Raises `UsageError` if the journal
    cannot be opened, or another process of this runner has it open.
    """
    async with AsyncExitStack() as stack:
        journal = Journal(
            None if state_dir is None else journal_folder(state_dir, identity),
            redacted=redacted,
            on_unwritable=partial(inbox.post, "journal_unwritable"),
            on_writable=partial(inbox.post, "journal_writable"),
        )
        stack.push_async_callback(journal.aclose)
        if state_dir is None:
            yield DurableState(journal)
            return
        # Imported here: a runner that leaves nothing behind does not need them, and loading them takes time.
        from fsm_runner.process.leftovers.startup_cleanup import kill_leftovers
        from fsm_runner.process.leftovers.watchdog import Watchdog

        tag = runner_tag(identity.key, journal.process)
        watchdog = await stack.enter_async_context(Watchdog(tag))
        earlier = frozenset(runner_tag(identity.key, process) for process in journal.earlier_processes)
        kill = partial(kill_leftovers, earlier)
        yield DurableState(journal, {RUNNER_TAG_VARIABLE: tag}, kill, lambda: watchdog.problem)
