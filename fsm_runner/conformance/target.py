"""The executor that is tried, as a runner would start it."""

import os
from pathlib import Path

import msgspec

from fsm_runner.config.profiles import LoadedProfile, load_profile, profile_paths
from fsm_runner.errors import UsageError
from fsm_runner.executors.manifest import manifest_beside
from fsm_runner.executors.program import ExecutorProgram, executor_program
from fsm_runner.protocol.statuses import DEFAULT_LIFECYCLE, Lifecycle
from fsm_runner.protocol.wire import JsonObject


class Target(msgspec.Struct, frozen=True, kw_only=True):
    program: ExecutorProgram
    profile: str | None
    """Whose lifecycle, config and variables are used; None where no profile names the executor."""
    other_profiles: tuple[str, ...]
    """They name it too."""
    lifecycle: Lifecycle
    config: JsonObject


def find_target(path_text: str, profile_name: str | None) -> Target:
    """Raises `UsageError` where the file cannot be tried or there is no such profile."""
    path = Path.cwd() / path_text
    profiles = [load_profile(profile_name)] if profile_name is not None else _profiles_of(path)
    profile = profiles[0] if profiles else None
    variables = manifest_beside(path).env if profile is None else profile.variables
    return Target(
        program=executor_program(path, os.environ, variables),
        profile=None if profile is None else profile.name,
        other_profiles=tuple(each.name for each in profiles[1:]),
        lifecycle=DEFAULT_LIFECYCLE if profile is None else profile.profile.lifecycle,
        config={} if profile is None else profile.profile.config,
    )


def _profiles_of(path: Path) -> list[LoadedProfile]:
    """Those that name this file. One that is broken is no reason not to try an executor."""
    found = []
    for name in profile_paths():
        try:
            profile = load_profile(name)
            if profile.executor_path.samefile(path):
                found.append(profile)
        except (UsageError, OSError):  # also: one of the two files does not exist
            continue
    return found
