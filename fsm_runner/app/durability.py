"""Opens what lets a later process of the same runner recover after a kill: journal, process tags, watchdog."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec

from fsm_runner.journal.identity import RunnerIdentity, journal_folder
from fsm_runner.journal.journal import Journal
from fsm_runner.process.tree.process_tags import RUNNER_TAG_VARIABLE, runner_tag
from fsm_runner.runtime.recovery import Sweep


class Keeping(msgspec.Struct, frozen=True):
    journal: Journal
    marks: Mapping[str, str]
    """Variables in the environment of everything that this runner starts."""
    sweep: Sweep
    problem: Callable[[], str | None] = lambda: None
    """What would be lost if this process were killed at this moment; None where nothing would."""


def _nothing() -> int:
    return 0


@asynccontextmanager
async def kept(
    state_dir: Path | None, identity: RunnerIdentity, redacted: Callable[[str], str]
) -> AsyncIterator[Keeping]:
    """`state_dir` None: nothing outlives the process.

    Raises `UsageError` where the journal cannot be opened, or another process of this runner has it.
    """
    async with AsyncExitStack() as stack:
        journal = Journal.open(None if state_dir is None else journal_folder(state_dir, identity), redacted=redacted)
        stack.push_async_callback(journal.aclose)
        if state_dir is None:
            yield Keeping(journal, {}, _nothing)
            return
        # What they stand on costs time to load, and serves nobody whose runner leaves nothing behind.
        from fsm_runner.process.leftovers.startup_cleanup import kill_leftovers
        from fsm_runner.process.leftovers.watchdog import Watchdog

        owner = runner_tag(identity.key, journal.process)
        watchdog = await stack.enter_async_context(Watchdog(owner))
        earlier = frozenset(runner_tag(identity.key, process) for process in journal.earlier_processes)
        yield Keeping(journal, {RUNNER_TAG_VARIABLE: owner}, partial(kill_leftovers, earlier), lambda: watchdog.problem)
