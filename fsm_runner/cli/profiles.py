"""`fsm-runner --profile-list`."""

import typer

from fsm_runner.cli.output import say, show
from fsm_runner.config.profiles import load_profile, profile_paths, profile_places
from fsm_runner.errors import EXIT_USAGE, UsageError


def list_profiles() -> None:
    """Print one line for each profile. An invalid profile is reported, and the exit code is 2."""
    paths = profile_paths()
    if not paths:
        raise UsageError(f"there are no profiles in {profile_places()}")
    width = max(map(len, paths))
    is_any_invalid = False
    for name in paths:
        try:
            loaded = load_profile(name)
        except UsageError as error:
            say(f"error: {error}")
            is_any_invalid = True
            continue
        agents = ", ".join(agent.name for agent in loaded.agents)
        about = loaded.profile.description or (f"agents: {agents}" if agents else loaded.profile.command)
        show(f"{name:<{width}}  {loaded.profile.type:<10}  {about}")
    if is_any_invalid:
        raise typer.Exit(EXIT_USAGE)
