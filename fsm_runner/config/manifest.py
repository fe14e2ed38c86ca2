"""The manifest of an executor, `executor.json` beside its file: the variables and the config that it needs."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from fsm_runner.errors import UsageError
from fsm_runner.protocol.json_text import decode_json
from fsm_runner.protocol.wire import DECODE_FAULTS, JsonObject

if TYPE_CHECKING:
    from jsonschema import ValidationError

Form = TypeVar("Form")

MANIFEST_FILE = "executor.json"
RESERVED_PREFIXES = ("AUTH0_", "AGENT_ORCHESTRATOR_", "AGENT_SESSION_ID")
"""Prefixes of variables that executors never get from a profile: the runner's credentials, and those that it sets."""


class ExecutorManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The content of `executor.json`."""

    env: tuple[str, ...] = ()
    """Environment variables that the executor gets with every profile."""
    credentials: tuple[str, ...] = ()
    """Environment variables of which exactly one must be set."""
    config_schema: JsonObject | None = None
    """The JSON Schema (2020-12) of a profile's `config`; None: anything. A property `env` lists names of further
    environment variables."""

    def credentials_defect(self, environment: Mapping[str, str]) -> str | None:
        """Return what is wrong with the credentials in an environment."""
        given = [name for name in self.credentials if environment.get(name)]
        if not self.credentials or len(given) == 1:
            return None
        needed = " or ".join(self.credentials)
        return f"the executor needs {needed}: set exactly one of them; {'more than one' if given else 'none'} is set"

    def variables_in(self, config: JsonObject) -> tuple[str, ...]:
        properties, names = (self.config_schema or {}).get("properties"), config.get("env")
        if not isinstance(properties, dict) or "env" not in properties or not isinstance(names, list):
            return ()
        return tuple(name for name in names if isinstance(name, str))

    def defects(self, config: JsonObject) -> Iterator[str]:
        """Yield the errors of a profile's config, with their paths."""
        if self.config_schema is None:
            return
        # Imported here because that takes a tenth of a second.
        from jsonschema import Draft202012Validator

        yield from map(_text_of, Draft202012Validator(self.config_schema).iter_errors(config))


def read_json(path: Path, form: type[Form], *, default: Form | None = None) -> Form:
    """Return the content of a file, or `default` if it is missing. Raises `UsageError` naming file and field."""
    try:
        return decode_json(path.read_bytes(), form)
    except DECODE_FAULTS as error:
        raise UsageError(f"{path}: {error}") from error
    except OSError as error:
        if default is not None and isinstance(error, FileNotFoundError | NotADirectoryError):
            return default
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error


def manifest_beside(executor: Path) -> ExecutorManifest:
    """Return the manifest beside an executor; empty without a file. Raises `UsageError` naming the file."""
    path = executor.parent / MANIFEST_FILE
    manifest = read_json(path, ExecutorManifest, default=ExecutorManifest())
    check_variables(path, "env", manifest.env)
    check_variables(path, "credentials", manifest.credentials)
    if manifest.config_schema is not None:
        from jsonschema import Draft202012Validator, SchemaError

        try:
            Draft202012Validator.check_schema(manifest.config_schema)
        except SchemaError as error:
            raise UsageError(f"{path}: config_schema: {error.message}") from error
    return manifest


def check_variables(path: Path, key: str, names: Iterable[str]) -> None:
    """Raises `UsageError` for a reserved name, and for a name that no variable can have."""
    for name in names:
        if name.startswith(RESERVED_PREFIXES):
            raise UsageError(f"{path}: {key}: {name} belongs to the runner, and no executor gets it")
        if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
            raise UsageError(f"{path}: {key}: {name!r} cannot be the name of a variable")


def _text_of(error: "ValidationError") -> str:
    where = ".".join(["config", *map(str, error.absolute_path)])
    match error.validator, error.schema, error.instance:
        case "additionalProperties", {"properties": dict(known)}, dict(given):
            unknown = sorted(given.keys() - known.keys())
            return f"{where}: there is no {', '.join(unknown)}; there are: {', '.join(known)}"
    return f"{where}: {error.message}"
