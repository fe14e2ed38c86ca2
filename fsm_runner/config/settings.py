"""The settings of the commands. A flag wins over the environment, that over `.env`, that over the default.

Each setting is declared once, as a field of `RunnerConfig` or `TokenCheckConfig`. The command line makes its options
of these declarations, and a test compares them with the table in `docs/operations.md`. The names are those of
protocol.md, section 7. Empty values count as unset, because compose files pass them.

`--help` loads this module, so it imports only the standard library, and its classes are dataclasses.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fsm_runner.config import parse
from fsm_runner.errors import UsageError

if TYPE_CHECKING:
    from fsm_runner.config.budgets import Budget
    from fsm_runner.diagnostics.redaction import Redactor
    from fsm_runner.process.limits.limits import ResourceLimits

DOTENV_FILE = ".env"
LOCAL_COORDINATOR_URL = "http://localhost:8765"
"""The URL at which a coordinator listens by default, and at which `submit`, `runs` and `stop` look for one."""

Config = TypeVar("Config")


@dataclass(frozen=True)
class Setting:
    """The declaration of one setting, beside the name, type and default of its field."""

    field: str
    variable: str
    parse: Callable[[str], object]
    """Raises `ValueError` with the expected form."""
    option: str
    """The flags and the placeholder of their value, as in `--profile -x NAME`; empty if only a variable sets it."""
    help: str
    default_text: str
    """The default for people, with its unit."""

    @property
    def flags(self) -> list[str]:
        return [word for word in self.option.split() if word.startswith("-")]

    @property
    def metavar(self) -> str | None:
        """The placeholder of the value; None: the option is a switch."""
        return next((word for word in self.option.split() if not word.startswith("-")), None)


def _setting(
    variable: str,
    parse: Callable[[str], object],
    option: str = "",
    help: str = "",  # noqa: A002 - the word of the command-line library
    *,
    default: Any = None,
    default_text: str | None = None,
) -> Any:
    if default_text is None:
        is_number = isinstance(default, float)
        default_text = f"{default:g} s" if is_number else "none" if default is None else str(default).lower()
    details = {"variable": variable, "parse": parse, "option": option, "help": help, "default_text": default_text}
    return field(default=default, metadata=details)


def settings_of(config: type) -> tuple[Setting, ...]:
    """Return the declarations of a configuration class, in the order of its fields."""
    declared: tuple[Field[Any], ...] = fields(config)
    return tuple(Setting(field=each.name, **each.metadata) for each in declared)


@dataclass(frozen=True, kw_only=True)
class RunnerConfig:
    """The settings of a runner. Times are in seconds."""

    coordinator_url: str | None = _setting(
        "AGENT_ORCHESTRATOR_API_URL",
        parse.url,
        "--coordinator-url -c URL",
        "the coordinator; without it, one starts here",
    )
    profile: str = _setting("PROFILE", str, "--profile -x NAME", "the executor and its configuration", default="echo")
    project_dir: Path = _setting(
        "PROJECT_DIR", Path, "--project-dir -p DIR", "where runs work", default=Path(), default_text="working directory"
    )
    hostname: str | None = _setting(
        "RUNNER_HOSTNAME", parse.hostname, "--hostname NAME", "the runner's host name", default_text="the machine's"
    )
    tags: tuple[str, ...] = _setting(
        "RUNNER_TAGS", parse.tags, "--tags -t A,B", "the runner's capabilities", default=(), default_text="none"
    )
    require_matching_tags: bool = _setting(
        "REQUIRE_MATCHING_TAGS",
        parse.boolean,
        "--require-matching-tags",
        "take only runs that share a tag",
        default=False,
    )
    verbose: bool = _setting("VERBOSE", parse.boolean, "--verbose -v", "log everything", default=False)
    mcp_port: int | None = _setting(
        "MCP_PORT", parse.port, "--mcp-port -m PORT", "the port of the MCP server", default_text="a free port"
    )
    external_mcp_url: str | None = _setting(
        "EXTERNAL_MCP_URL", parse.url, "--external-mcp-url -e URL", "the MCP server to use in place of the runner's own"
    )
    max_runs: int | None = _setting(
        "MAX_RUNS", parse.count, "--max-runs N", "the most runs at a time", default_text="no limit"
    )
    grace_period_s: float = _setting(
        "GRACE_PERIOD",
        parse.seconds_or_zero,
        "--grace-period SECONDS",
        "the time that active runs get to finish when the runner stops",
        default=5.0,
    )
    run_timeout_s: float | None = _setting(
        "RUN_TIMEOUT", parse.seconds, "--run-timeout SECONDS", "how long a run may execute", default_text="no limit"
    )
    silence_timeout_s: float | None = _setting(
        "SILENCE_TIMEOUT",
        parse.seconds,
        "--silence-timeout SECONDS",
        "how long a run may send, write and compute nothing",
        default_text="no limit",
    )
    limit_wait_s: float | None = _setting(
        "LIMIT_WAIT",
        parse.seconds_or_zero,
        "--limit-wait SECONDS",
        "how long a run waits for a provider's limit to reset; 0: it fails at once",
        default_text="21600 s",
    )
    run_limits: "ResourceLimits | None" = _setting(
        "RUN_LIMITS",
        parse.limits,
        "--run-limits LIMITS",
        "what a run may use: memory=2GiB,processes=200,open_files=1024,cpu=600,output=64MiB",
        default_text="no limits",
    )
    budget: "Budget | None" = _setting(
        "BUDGET",
        parse.budget,
        "--budget BUDGET",
        "what may be used of the provider: run.max_cost_usd=2,session.max_turns=200,tree.max_tokens=5000000",
        default_text="no limits",
    )
    run_as: str | None = _setting(
        "RUN_AS",
        parse.user,
        "--run-as USER|UID:GID",
        "the user of executors, if the runner is root",
        default_text="the runner's user",
    )
    session_idle_timeout_s: float | None = _setting(
        "SESSION_IDLE_TIMEOUT",
        parse.seconds,
        "--session-idle-timeout SECONDS",
        "how long a persistent executor waits for a turn",
        default_text="no limit",
    )
    exit_after_outage_s: float | None = _setting(
        "EXIT_AFTER_OUTAGE",
        parse.seconds,
        "--exit-after-outage SECONDS",
        "exit when the coordinator has been unreachable for this time",
        default_text="never",
    )
    exit_after_runs: int | None = _setting(
        "EXIT_AFTER_RUNS",
        parse.count,
        "--exit-after-runs N",
        "claim at most this many runs, and exit when they have ended",
        default_text="never",
    )
    exit_when_idle_s: float | None = _setting(
        "EXIT_WHEN_IDLE",
        parse.seconds,
        "--exit-when-idle SECONDS",
        "exit when there was no run for this time, after the end of the poll (30 s)",
        default_text="never",
    )
    state_dir: Path | None = _setting(
        "STATE_DIR", Path, "--state-dir DIR", "the folder of journals", default_text="~/.local/state/fsm-runner"
    )
    """`load_config` fills in the default. None: the journal is in memory and ends with the process."""
    poll_timeout_s: float = _setting("POLL_TIMEOUT", parse.seconds, default=30.0)
    heartbeat_interval_s: float = _setting("HEARTBEAT_INTERVAL", parse.seconds, default=60.0)
    auth0_domain: str | None = _setting("AUTH0_DOMAIN", parse.domain)
    auth0_client_id: str | None = _setting("AUTH0_RUNNER_CLIENT_ID", str)
    auth0_client_secret: str | None = _setting("AUTH0_RUNNER_CLIENT_SECRET", str)
    auth0_audience: str | None = _setting("AUTH0_AUDIENCE", str)

    @property
    def token_request(self) -> "TokenRequest | None":
        """The request to the token service; None unless all four variables are set (section 6)."""
        if self.auth0_domain and self.auth0_client_id and self.auth0_client_secret and self.auth0_audience:
            return TokenRequest(self.auth0_client_id, self.auth0_client_secret, self.auth0_audience)
        return None


@dataclass(frozen=True)
class TokenRequest:
    """Body of `POST /oauth/token`."""

    client_id: str
    client_secret: str = field(repr=False)
    audience: str
    grant_type: str = "client_credentials"


@dataclass(frozen=True, kw_only=True)
class TokenCheckConfig:
    """The settings of `fsm-runner coordinator` beside its flags: the tokens that its callers need."""

    auth_enabled: bool = _setting("AUTH_ENABLED", parse.boolean, default=False)
    domain: str | None = _setting("AUTH0_DOMAIN", parse.domain)
    audience: str | None = _setting("AUTH0_AUDIENCE", str)


SETTINGS = settings_of(RunnerConfig)
TOKEN_CHECK_SETTINGS = settings_of(TokenCheckConfig)


def load_config(flags: Mapping[str, str | None], environ: Mapping[str, str] | None = None) -> RunnerConfig:
    """Return the settings; `flags` has the text of each given flag, by field. Raises `UsageError` for a bad value."""
    environ = os.environ if environ is None else environ
    config = _loaded(RunnerConfig, flags, environ)
    if config.mcp_port is not None and config.external_mcp_url is not None:
        raise UsageError("--mcp-port (MCP_PORT) and --external-mcp-url (EXTERNAL_MCP_URL) exclude each other: give one")
    state_dir = (config.state_dir or default_state_dir(environ)).absolute()
    return replace(config, project_dir=_existing_folder(config.project_dir), state_dir=state_dir)


def load_token_check_config() -> TokenCheckConfig:
    """Raises `UsageError` naming the variable with a bad value."""
    return _loaded(TokenCheckConfig, {}, os.environ)


def _loaded(config: type[Config], flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Config:
    dotenv = read_dotenv(Path(DOTENV_FILE))
    given: dict[str, object] = {}
    for setting in settings_of(config):
        sources = (
            (next(iter(setting.flags), ""), flags.get(setting.field)),
            (setting.variable, environ.get(setting.variable)),
            (f"{setting.variable} in {DOTENV_FILE}", dotenv.get(setting.variable)),
        )
        for source, text in sources:
            if text:
                given[setting.field] = _parsed(setting, source, text)
                break
    return config(**given)


def _parsed(setting: Setting, source: str, text: str) -> object:
    from fsm_runner.diagnostics.redaction import without_login

    try:
        text.encode()
        return setting.parse(text)
    except UnicodeEncodeError as error:
        raise UsageError(f"{source}: {text!r}: not UTF-8 text") from error
    except ValueError as error:
        raise UsageError(f"{source}: {without_login(text)!r}: {error}") from error


def read_dotenv(path: Path) -> Mapping[str, str | None]:
    """Return the variables of a `.env` file; empty if there is no file. Raises `UsageError` if it is unreadable."""
    if not path.is_file():
        return {}
    import dotenv

    try:
        return dotenv.dotenv_values(path, interpolate=False, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}") from error


def known_secrets() -> "Redactor":
    """Return a redactor of the secrets in the environment and in `.env`. Raises `UsageError` as `read_dotenv` does."""
    from fsm_runner.diagnostics.redaction import Redactor

    return Redactor.of_variables(os.environ, read_dotenv(Path(DOTENV_FILE)))


def load_state_dir(flag: str | None) -> Path:
    """Return the folder of journals, for commands that only read them. Raises `UsageError`."""
    return load_config({"state_dir": flag}).state_dir or default_state_dir(os.environ)


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """Return the folder for persistent state of this user's programs (XDG Base Directory Specification)."""
    base = environ.get("XDG_STATE_HOME") or ""
    folder = Path(base) if base.startswith("/") else Path(environ.get("HOME") or "/").joinpath(".local/state")
    return folder / "fsm-runner"


def _existing_folder(path: Path) -> Path:
    """Return the absolute path. Raises `UsageError` if it is not an accessible directory with a UTF-8 name."""
    source = "--project-dir (PROJECT_DIR)"
    try:
        folder = path.absolute()
        str(folder).encode()
        if not folder.is_dir():
            raise UsageError(f"{source}: there is no directory {folder}")
    except UnicodeEncodeError as error:
        raise UsageError(f"{source}: {str(folder)!r}: not UTF-8 text") from error
    except OSError as error:
        raise UsageError(f"{source}: {path}: {error.strerror}") from error
    return folder
