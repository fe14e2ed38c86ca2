"""The identity of the runner that owns a journal."""

import hashlib
import json
from pathlib import Path

import msgspec

KEY_DIGITS = 16


class RunnerIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """How a coordinator distinguishes runners, and the coordinator: a report for one must not go to another."""

    hostname: str
    project_dir: str
    executor_profile: str
    executor_command: str
    coordinator_url: str

    @property
    def key(self) -> str:
        """A hash of all five in 16 hex digits; the same after a restart."""
        # json: a path that is not UTF-8 contains surrogates, which msgspec does not encode.
        parts = json.dumps(msgspec.structs.astuple(self))
        return hashlib.sha256(parts.encode("ascii")).hexdigest()[:KEY_DIGITS]


def journal_folder(state_dir: Path, identity: RunnerIdentity) -> Path:
    return state_dir / identity.key
