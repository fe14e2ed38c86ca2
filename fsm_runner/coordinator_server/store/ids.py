"""Names and times that the coordinator gives out."""

import hashlib
import secrets
from datetime import UTC, datetime

RUNNER_ID_DIGITS = 12
RANDOM_ID_BYTES = 8


def utc_now() -> str:
    """Now, as ISO 8601 text of fixed width, so that times are ordered as text."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def new_run_id() -> str:
    return f"run_{secrets.token_hex(RANDOM_ID_BYTES)}"


def new_session_id() -> str:
    return f"ses_{secrets.token_hex(RANDOM_ID_BYTES)}"


def runner_id_of(hostname: str, project_dir: str, executor_profile: str, command: str) -> str:
    """The identity of a runner: the same four texts give the same id, also after a restart."""
    identity = "\0".join((hostname, project_dir, executor_profile, command))
    digest = hashlib.sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()
    return f"rnr_{digest[:RUNNER_ID_DIGITS]}"
