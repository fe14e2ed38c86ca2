"""Whose journal it is."""

import hashlib
import json
from pathlib import Path

import msgspec

KEY_DIGITS = 16


class RunnerIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """What a coordinator tells runners apart by, and which coordinator: a report for one must not go to another."""

    hostname: str
    project_dir: str
    executor_profile: str
    executor_command: str
    coordinator_url: str

    @property
    def key(self) -> str:
        """16 hex digits of all five; the same after a restart."""
        # json: a path that is no UTF-8 holds surrogates, which msgspec does not encode.
        parts = json.dumps(msgspec.structs.astuple(self))
        return hashlib.sha256(parts.encode("ascii")).hexdigest()[:KEY_DIGITS]


def journal_folder(state_dir: Path, identity: RunnerIdentity) -> Path:
    return state_dir / identity.key
