"""The sources of settings, and the errors for bad values."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main

from fsm_runner.cli.app import app
from fsm_runner.config.budgets import Budget, UsageLimits
from fsm_runner.config.provider_limits import ProviderLimitPolicy
from fsm_runner.config.settings import SETTINGS, TokenRequest, load_config, read_dotenv
from fsm_runner.errors import UsageError
from fsm_runner.process.limits.limits import ResourceLimits

PROTOCOL = Path(__file__).parents[2] / "docs" / "protocol.md"
FLAGS_OF_NO_SETTING = {"--profile-list", "--version"}
NOT_OF_THE_RUNNER = {"CLAUDE_CODE_OAUTH_TOKEN"}


def test_the_default_of_a_wait_for_a_limit_is_that_of_profiles() -> None:
    (setting,) = (each for each in SETTINGS if each.variable == "LIMIT_WAIT")
    assert setting.default_text == f"{ProviderLimitPolicy().max_wait_s:g} s"


class Row(NamedTuple):
    variable: str | None
    flag: str | None
    short_flag: str | None


def protocol_rows() -> list[Row]:
    """The table of protocol.md, section 7."""
    _, _, section = PROTOCOL.read_text().partition("\n## 7. ")
    rows = []
    for line in section.splitlines():
        cells = [re.findall("`([^`]+)`", cell) for cell in line.split("|")[1:-1]]
        if not cells or not (cells[0] or cells[1]):
            continue
        flag, short_flag = (*cells[1], None, None)[:2]
        rows += [Row(variable, flag, short_flag) for variable in cells[0] or [None]]
    return rows


def options() -> dict[str, list[str]]:
    """The options of the runner itself: each long flag with all spellings."""
    command = typer.main.get_command(app)
    spellings = [list(parameter.opts) for parameter in command.params]
    return {next(flag for flag in flags if flag.startswith("--")): flags for flags in spellings}


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_option_of_the_runner_belongs_to_a_setting() -> None:
    flags = {setting.flags[0] for setting in SETTINGS if setting.flags}
    assert flags == set(options()) - FLAGS_OF_NO_SETTING - {"--help"}


def test_every_variable_and_flag_of_the_contract_is_there() -> None:
    rows = protocol_rows()
    assert len(rows) == 16
    flags = {setting.variable: setting.flags for setting in SETTINGS}
    for row in rows:
        in_contract = [flag for flag in (row.flag, row.short_flag) if flag is not None]
        if row.variable is not None and row.variable not in NOT_OF_THE_RUNNER:
            assert flags[row.variable] == in_contract
        if row.flag is not None:
            assert options()[row.flag] == in_contract


def test_every_option_s_help_names_its_variable() -> None:
    helps = {parameter.opts[0]: getattr(parameter, "help", "") for parameter in typer.main.get_command(app).params}
    for setting in SETTINGS:
        if setting.flags:
            assert helps[setting.flags[0]].startswith(setting.variable)


def test_no_two_settings_share_a_variable() -> None:
    assert len({setting.variable for setting in SETTINGS}) == len(SETTINGS)


GOOD_VALUES: dict[str, tuple[str, object]] = {
    "coordinator_url": ("https://coordinator.example:1", "https://coordinator.example:1"),
    "profile": ("best", "best"),
    "project_dir": ("/", Path("/")),
    "hostname": ("build-1.example", "build-1.example"),
    "tags": (" a, b ,,", ("a", "b")),
    "require_matching_tags": ("Yes", True),
    "verbose": ("1", True),
    "mcp_port": ("65535", 65535),
    "external_mcp_url": ("http://x/mcp", "http://x/mcp"),
    "max_runs": ("3", 3),
    "grace_period_s": ("2.5", 2.5),
    "run_timeout_s": ("1e3", 1000.0),
    "silence_timeout_s": ("600", 600.0),
    "limit_wait_s": ("0", 0.0),
    "run_limits": ("memory=1GiB, cpu=1.5", ResourceLimits(memory_bytes=1 << 30, cpu_s=1.5)),
    "budget": (
        "run.max_cost_usd=2.5, tree.max_tokens=5000000",
        Budget(run=UsageLimits(max_cost_usd=2.5), tree=UsageLimits(max_tokens=5_000_000)),
    ),
    "run_as": ("nobody:nogroup", "nobody:nogroup"),
    "session_idle_timeout_s": ("60", 60.0),
    "exit_after_outage_s": ("90", 90.0),
    "exit_after_runs": ("2", 2),
    "exit_when_idle_s": ("45", 45.0),
    "state_dir": ("/var/lib/runner", Path("/var/lib/runner")),
    "poll_timeout_s": ("7", 7.0),
    "heartbeat_interval_s": ("0.5", 0.5),
    "auth0_domain": ("d", "d"),
    "auth0_client_id": ("i", "i"),
    "auth0_client_secret": ("s", "s"),
    "auth0_audience": ("a", "a"),
}


@pytest.mark.parametrize("field", [setting.field for setting in SETTINGS])
def test_each_field_is_taken_from_its_flag_its_variable_and_the_dotenv_file(field: str, empty_folder: Path) -> None:
    text, value = GOOD_VALUES[field]
    setting = next(setting for setting in SETTINGS if setting.field == field)
    assert getattr(load_config({field: text}, {}), field) == value
    assert getattr(load_config({}, {setting.variable: text}), field) == value
    (empty_folder / ".env").write_text(f"{setting.variable}={text!r}\n")
    assert getattr(load_config({}, {}), field) == value


def test_a_flag_wins_over_the_environment_that_over_the_dotenv_file_that_over_the_default(empty_folder: Path) -> None:
    assert load_config({}, {}).profile == "echo"
    (empty_folder / ".env").write_text("PROFILE=from-file\n")
    assert load_config({}, {}).profile == "from-file"
    assert load_config({}, {"PROFILE": "from-environment"}).profile == "from-environment"
    assert load_config({"profile": "from-flag"}, {"PROFILE": "from-environment"}).profile == "from-flag"


def test_empty_strings_count_as_not_set(empty_folder: Path) -> None:
    variables = {setting.variable: "" for setting in SETTINGS}
    flags = {setting.field: "" for setting in SETTINGS}
    (empty_folder / ".env").write_text("".join(f"{variable}=\n" for variable in variables))
    assert load_config(flags, variables) == load_config({}, {})


def test_an_empty_variable_does_not_hide_the_dotenv_file(empty_folder: Path) -> None:
    (empty_folder / ".env").write_text("PROFILE=from-file\n")
    assert load_config({"profile": ""}, {"PROFILE": ""}).profile == "from-file"


def test_the_environment_is_that_of_the_process(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNNER_TAGS", "gpu")
    assert load_config({}).tags == ("gpu",)


def test_the_working_directory_is_the_default_project_directory(empty_folder: Path) -> None:
    (empty_folder / "below").mkdir()
    assert load_config({}, {}).project_dir == empty_folder
    assert load_config({"project_dir": "below"}, {}).project_dir == empty_folder / "below"


BAD_VALUES = [
    ("coordinator_url", "localhost:8765"),
    ("coordinator_url", "ftp://host"),
    ("coordinator_url", "http://"),
    ("coordinator_url", "http://host:0"),
    ("coordinator_url", "http://host:99999"),
    ("coordinator_url", "http://[::1"),
    ("external_mcp_url", "host/mcp"),
    ("project_dir", "nowhere"),
    ("hostname", "a b"),
    ("hostname", "x" * 254),
    ("project_dir", "x" * 300),
    ("require_matching_tags", "maybe"),
    ("verbose", "2"),
    ("mcp_port", "0"),
    ("mcp_port", "65536"),
    ("mcp_port", "http"),
    ("mcp_port", "8_0"),
    ("max_runs", "0"),
    ("max_runs", "-1"),
    ("max_runs", "1.5"),
    ("max_runs", "9" * 5000),
    ("grace_period_s", "-1"),
    ("grace_period_s", "soon"),
    ("run_timeout_s", "nan"),
    ("silence_timeout_s", "0"),
    ("run_limits", "memory"),
    ("run_limits", "memory=2GB"),
    ("run_limits", "processes=0"),
    ("run_limits", "cpu=1,cpu=2"),
    ("budget", "max_cost_usd=1"),
    ("budget", "run.max_cost_usd"),
    ("budget", "run.max_cost_usd=0"),
    ("budget", "run.max_cost_usd=nan"),
    ("budget", "run.max_turns=1.5"),
    ("budget", "run.max_turns=-1"),
    ("budget", "tree.max_tokens=9999999999999"),
    ("budget", "tree.max_tokens=1_000"),
    ("budget", "run.max_turns=1,run.max_turns=2"),
    ("budget", "turn.max_turns=1"),
    ("run_as", "a b"),
    ("run_as", "a:"),
    ("session_idle_timeout_s", "0"),
    ("exit_after_outage_s", "never"),
    ("exit_after_runs", "never"),
    ("exit_when_idle_s", "never"),
    ("poll_timeout_s", "inf"),
    ("heartbeat_interval_s", "1 minute"),
    ("auth0_domain", "https://tenant.auth0.com"),
    ("auth0_domain", "."),
    ("auth0_domain", "tenant.auth0.com:"),
    ("auth0_domain", "tenant.auth0.com:0"),
    ("auth0_domain", "tenant.auth0.com:99999"),
    ("profile", "caf\udce9"),
    ("tags", "caf\udce9"),
    ("project_dir", "caf\udce9"),
]


@pytest.mark.parametrize(("field", "text"), BAD_VALUES)
def test_a_bad_value_is_reported_with_its_flag_or_variable(field: str, text: str, empty_folder: Path) -> None:
    setting = next(setting for setting in SETTINGS if setting.field == field)
    sources: list[tuple[str, Mapping[str, str], Mapping[str, str]]] = [(setting.variable, {}, {setting.variable: text})]
    if setting.flags:
        sources.append((setting.flags[0], {field: text}, {}))
    for name, flags, environ in sources:
        with pytest.raises(UsageError) as refused:
            load_config(flags, environ)
        assert name in str(refused.value)
        str(refused.value).encode()


def test_a_bad_value_in_the_dotenv_file_is_reported_with_that_file(empty_folder: Path) -> None:
    (empty_folder / ".env").write_text("MCP_PORT=http\n")
    with pytest.raises(UsageError, match=r"MCP_PORT in \.env: 'http': expected a port"):
        load_config({}, {})


def test_a_dotenv_file_is_read_without_interpolation(empty_folder: Path) -> None:
    (empty_folder / ".env").write_text("# tags\nexport RUNNER_TAGS='${HOME},b'\nVERBOSE\nPROFILE=\"best\"\n")
    assert load_config({}, {}) == dataclasses.replace(load_config({}, {}), tags=("${HOME}", "b"), profile="best")


def test_an_unreadable_dotenv_file_is_reported(empty_folder: Path) -> None:
    (empty_folder / ".env").write_bytes(b"PROFILE=\xff\n")
    with pytest.raises(UsageError, match=r"\.env: cannot be read"):
        load_config({}, {})


def test_a_folder_with_the_name_of_the_dotenv_file_is_ignored(empty_folder: Path) -> None:
    (empty_folder / ".env").mkdir()
    assert read_dotenv(Path(".env")) == {}


def test_a_fixed_port_and_an_external_server_exclude_each_other(empty_folder: Path) -> None:
    with pytest.raises(UsageError, match=r"MCP_PORT.*EXTERNAL_MCP_URL"):
        load_config({"mcp_port": "8000"}, {"EXTERNAL_MCP_URL": "http://host/mcp"})


def test_a_project_directory_without_access_is_reported(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    # Root may look everywhere, so the system's answer has to be put in place.
    monkeypatch.setattr(Path, "is_dir", refuse)
    with pytest.raises(UsageError, match=r"--project-dir \(PROJECT_DIR\): closed/project: Permission denied"):
        load_config({"project_dir": "closed/project"}, {})


def test_a_deleted_working_directory_is_reported(empty_folder: Path) -> None:
    gone = empty_folder / "gone"
    gone.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(gone)
        gone.rmdir()
        with pytest.raises(UsageError, match=r"--project-dir \(PROJECT_DIR\): \.: No such file or directory"):
            load_config({}, {})


def test_a_login_needs_all_four_variables(empty_folder: Path) -> None:
    variables = {
        "AUTH0_DOMAIN": "domain",
        "AUTH0_RUNNER_CLIENT_ID": "id",
        "AUTH0_RUNNER_CLIENT_SECRET": "secret",
        "AUTH0_AUDIENCE": "audience",
    }
    config = load_config({}, variables)
    assert (config.auth0_domain, config.token_request) == ("domain", TokenRequest("id", "secret", "audience"))
    assert "'secret'" not in repr(config.token_request)
    for variable in variables:
        assert load_config({}, variables | {variable: ""}).token_request is None


def test_the_default_text_of_the_wait_for_limits_is_that_of_profiles() -> None:
    (text,) = (setting.default_text for setting in SETTINGS if setting.field == "limit_wait_s")
    assert text == f"{ProviderLimitPolicy().max_wait_s:g} s"
