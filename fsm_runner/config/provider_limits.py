"""What a run does when a limit of its provider is reached, as declared in a profile."""

from typing import Annotated

import msgspec

CONTINUE_PROMPT = (
    "Continue where you left off. A usage limit interrupted your last turn, and it has been reset since. Do not repeat "
    "work that is done."
)


class ProviderLimitPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The key `provider_limits` of a profile: what a run does when a limit of its provider is reached."""

    max_wait_s: Annotated[float, msgspec.Meta(ge=0)] = 6 * 3600.0
    """How long a run waits for one reset; 0: not at all. The setting of the runner takes precedence."""
    max_waits: Annotated[int, msgspec.Meta(ge=0)] = 10
    """How often one run waits."""
    prompt: Annotated[str, msgspec.Meta(min_length=1)] = CONTINUE_PROMPT
    """The prompt with which the session continues."""
