"""The executor under test, started as a runner would start it."""

import os
from pathlib import Path

import msgspec

from fsm_runner.config.manifest import manifest_beside
from fsm_runner.config.profiles import LoadedProfile, load_profile, profile_paths
from fsm_runner.errors import UsageError
from fsm_runner.executors.program import ExecutorProgram, executor_program
from fsm_runner.protocol.statuses import DEFAULT_LIFECYCLE, Lifecycle
from fsm_runner.protocol.wire import JsonObject


class Target(msgspec.Struct, frozen=True, kw_only=True):
    program: ExecutorProgram
    profile: str | None
    """The profile that provides lifecycle, config and variables; None if no profile names the executor."""
    other_profiles: tuple[str, ...]
    """Further profiles that name the executor."""
    lifecycle: Lifecycle
    config: JsonObject


def find_target(path_text: str, profile_name: str | None) -> Target:
    """Raises `UsageError` if the file cannot be started or the profile does not exist."""
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
    """Return the valid profiles that name this file."""
    found = []
    for name in profile_paths():
        try:
            profile = load_profile(name)
            if profile.executor_path.samefile(path):
                found.append(profile)
        except (UsageError, OSError):  # a broken profile, or one of the two files is missing
            continue
    return found
