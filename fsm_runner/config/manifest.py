"""What an executor says of itself in `executor.json` beside its file: what it needs of whoever starts it."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fsm_runner.errors import UsageError
from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.wire import DECODE_FAULTS, JsonObject

if TYPE_CHECKING:
    from jsonschema import ValidationError

MANIFEST_FILE = "executor.json"
RUNNERS_OWN_VARIABLES = ("AUTH0_", "AGENT_ORCHESTRATOR_", "AGENT_SESSION_ID")
"""How the variables begin that a profile cannot pass on: the runner's credentials, and what it sets itself."""


class ExecutorManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    env: tuple[str, ...] = ()
    """Variables that it gets with every profile, where they are set."""
    credentials: tuple[str, ...] = ()
    """Variables of which one has to be set, and no other."""
    config_schema: JsonObject | None = None
    """JSON Schema (2020-12) of a profile's `config`; None: anything. Where it has a property `env`, that is a list of
    names of further variables."""

    def credentials_defect(self, environment: Mapping[str, str]) -> str | None:
        """What is wrong with the credentials that are set."""
        given = [name for name in self.credentials if environment.get(name)]
        if not self.credentials or len(given) == 1:
            return None
        needed = " or ".join(self.credentials)
        return f"the executor needs {needed} to be set, one alone: {'more than one' if given else 'none'} is set"

    def variables_in(self, config: JsonObject) -> tuple[str, ...]:
        properties, names = (self.config_schema or {}).get("properties"), config.get("env")
        if not isinstance(properties, dict) or "env" not in properties or not isinstance(names, list):
            return ()
        return tuple(name for name in names if isinstance(name, str))

    def defects(self, config: JsonObject) -> Iterator[str]:
        """What is wrong with a profile's config: where, and why."""
        if self.config_schema is None:
            return
        # It takes a tenth of a second to load.
        from jsonschema import Draft202012Validator

        for error in Draft202012Validator(self.config_schema).iter_errors(config):
            yield _said(error)


def manifest_beside(executor: Path) -> ExecutorManifest:
    """Empty where there is none. Raises `UsageError` naming the file."""
    path = executor.parent / MANIFEST_FILE
    try:
        manifest = decode_json(path.read_bytes(), ExecutorManifest)
    except (FileNotFoundError, NotADirectoryError):
        return ExecutorManifest()
    except DECODE_FAULTS as defect:
        raise UsageError(f"{path}: {defect}") from defect
    except OSError as fault:
        raise UsageError(f"{path}: cannot be read: {fault.strerror}") from fault
    refuse_runners_own(path, "env", manifest.env)
    refuse_runners_own(path, "credentials", manifest.credentials)
    if manifest.config_schema is not None:
        _check_schema(path, manifest.config_schema)
    return manifest


def refuse_runners_own(path: Path, key: str, names: Iterable[str]) -> None:
    """Raises `UsageError` for variables of the runner that no file may pass on, and for what names none."""
    for name in names:
        if name.startswith(RUNNERS_OWN_VARIABLES):
            raise UsageError(f"{path}: {key}: {name} is the runner's own, and no executor gets it")
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            raise UsageError(f"{path}: {key}: {name!r} is not the name of a variable")


def _check_schema(path: Path, schema: JsonObject) -> None:
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as defect:
        raise UsageError(f"{path}: config_schema: {defect.message}") from defect


def _said(error: "ValidationError") -> str:
    where = ".".join(["config", *map(str, error.absolute_path)])
    match error.validator, error.schema, error.instance:
        case "additionalProperties", {"properties": dict(known)}, dict(given):
            unknown = sorted(given.keys() - known.keys())
            return f"{where}: there is no {', '.join(unknown)}; there are: {', '.join(known)}"
        case _:
            return f"{where}: {error.message}"
