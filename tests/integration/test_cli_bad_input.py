"""Bad input: one line that says what is wrong and where, exit code 2, no traceback."""

import socket
from pathlib import Path

import pytest

from fsm_runner.coordinator_server.server import DEFAULT_HOST
from fsm_runner.errors import EXIT_OK, EXIT_USAGE
from tests.support.home import PROFILE, make_home
from tests.support.program import Finished, environment, finish

URL = ("--coordinator-url", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--profile", "nobody", *URL), ("nobody", "bench")),
        (("run", "nobody"), ("nobody", "say")),
        (("run", "say", "--profile", "nobody"), ("nobody", "bench")),
        (("run", "say", "no equals sign"), ("no equals sign", "key=value")),
        (("run", "say", "=value"), ("=value", "key=value")),
        (("run", "say", "text:={broken"), ("text:={broken", "JSON")),
        (("run", "say", "text=@missing.txt"), ("missing.txt",)),
        (("run", "say", "text=a", "text=b"), ("text", "twice")),
        (("run", "say", "--project-dir", "nowhere"), ("--project-dir", "nowhere")),
        (("--coordinator-url", "ftp://example.org"), ("ftp://example.org", "http")),
        (("--coordinator-url", "http://"), ("http://",)),
        (("--coordinator-url", "http://host:70000"), ("http://host:70000",)),
        (("runs", "--coordinator-url", "nonsense"), ("nonsense",)),
        (("--mcp-port", "8080", "--external-mcp-url", "http://mcp", *URL), ("--mcp-port", "--external-mcp-url")),
        (("--mcp-port", "eighty", *URL), ("--mcp-port", "eighty")),
        (("--max-runs", "0", *URL), ("--max-runs", "0")),
        (("--max-runs", "many", *URL), ("--max-runs", "many")),
        (("--grace-period", "-1", *URL), ("--grace-period", "-1")),
        (("--run-timeout", "nan", *URL), ("--run-timeout", "nan")),
        (("--run-limits", "memory=lots", *URL), ("--run-limits", "memory: expected a number of bytes", "512MiB")),
        (
            ("--run-limits", "ram=1GiB", *URL),
            ("--run-limits", "ram=1GiB", "memory, processes, open_files, cpu, output"),
        ),
        (("--budget", "run.max_cost=2", *URL), ("--budget", "run.max_cost=2", "max_cost_usd, max_tokens, max_turns")),
        (("coordinator", "--port", "70000"), ("70000",)),
        (("coordinator", "--port", "http"), ("http",)),
        (("coordinator", "--agents-dir", "nowhere"), ("nowhere",)),
        (("coordinator", "--keep-runs", "a month"), ("--keep-runs: 'a month': expected a duration", "30d")),
        (("coordinator", "--port", "0", "--database", "/nowhere/at/all.sqlite"), ("/nowhere/at/all.sqlite",)),
    ],
    ids=" ".join,
)
async def test_bad_arguments_are_named(tmp_path: Path, arguments: tuple[str, ...], named: tuple[str, ...]) -> None:
    make_home(tmp_path / "home")
    _assert_refused(await finish(tmp_path, environment(tmp_path / "home"), *arguments), *named)


async def test_an_unknown_flag_is_named(tmp_path: Path) -> None:
    ended = await finish(tmp_path, environment(None), "--no-such-flag")
    assert ended.code == EXIT_USAGE
    assert "--no-such-flag" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"{", ""),
        (b"", ""),
        (b"\xff", ""),
        (b"[" * 100_000, ""),
        (b"[]", ""),
        (b'{"type": "procedural"}', "command"),
        (b'{"type": "magic", "command": "x"}', "type"),
        (b'{"type": "procedural", "command": "x", "config": 3}', "config"),
        (b'{"type": "procedural", "command": "x", "agents_dir": "nowhere"}', "nowhere"),
        (b'{"type": "procedural", "command": "executors/none/such"}', "executors/none/such"),
        (
            b'{"type": "procedural", "command": "executors/procedural/ao-procedural-exec", "config": {"timeout": "x"}}',
            "timeout",
        ),
    ],
)
async def test_a_malformed_profile_is_named_with_its_field(tmp_path: Path, content: bytes, named: str) -> None:
    path = make_home(tmp_path / "home").path
    path.write_bytes(content)
    _assert_refused(
        await finish(tmp_path, environment(tmp_path / "home"), "--profile", PROFILE, *URL), str(path), named
    )


async def test_a_malformed_agent_is_named_with_its_field(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    path = home.executor_folder / "agents" / PROFILE / "say.json"
    path.write_bytes(b'{"name": 3}')
    _assert_refused(await finish(tmp_path, environment(tmp_path / "home"), "run", "fail"), str(path), "name")


async def test_a_missing_command_is_named(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    path = home.executor_folder / "commands" / "say"
    path.unlink()
    for arguments in (("run", "say", "text=x"), ("--profile", PROFILE, *URL)):
        ended = await finish(tmp_path, environment(tmp_path / "home"), *arguments)
        _assert_refused(ended, str(home.agent_files["say"]), "command", str(path))


async def test_a_command_that_is_not_executable_is_named_with_the_remedy(tmp_path: Path) -> None:
    path = make_home(tmp_path / "home").executor_folder / "commands" / "say"
    path.chmod(0o644)
    _assert_refused(await finish(tmp_path, environment(tmp_path / "home"), "run", "say"), f"chmod +x {path}")


async def test_a_broken_profile_affects_only_its_own_agents(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    broken = home.path.with_name("broken.json")
    broken.write_text("{")
    ended = await finish(tmp_path, environment(tmp_path / "home"), "run", "say", "text=x")
    assert (ended.code, ended.stdout) == (0, '{"said": "x"}\n')
    ended = await finish(tmp_path, environment(tmp_path / "home"), "run", "other")
    cause = f"'other'; probably because profile 'broken' could not be loaded: {broken}: the JSON is incomplete"
    _assert_refused(ended, cause, "; the other profiles have these agents: ")


async def test_an_unknown_status_is_named(tmp_path: Path) -> None:
    _assert_refused(await finish(tmp_path, environment(None), "runs", "--status", "bogus"), "'bogus'", "pending")


async def test_parameters_that_violate_the_schema_are_named(tmp_path: Path) -> None:
    _assert_refused(await finish(tmp_path, environment(None), "run", "echo"), "message")
    _assert_refused(await finish(tmp_path, environment(None), "run", "echo", "message=x", "mood=good"), "mood")
    _assert_refused(
        await finish(tmp_path, environment(None), "run", "test-procedural", "exit-code=seven"), "exit-code", "integer"
    )
    _assert_refused(await finish(tmp_path, environment(None), "run", "test-procedural", "exit-code=300"), "exit-code")


async def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.create_server((DEFAULT_HOST, 0)) as taken:
        port = str(taken.getsockname()[1])
        _assert_refused(await finish(tmp_path, environment(None), "coordinator", "--port", port), port, "in use")


async def test_a_machine_that_is_not_sound_starts_no_runner(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    specs = tmp_path / "home" / "specs"
    specs.mkdir()
    (specs / "run.toml").write_text('name = "run"\n')
    for arguments in (("run", "say", "text=x"), ("--profile", PROFILE, *URL)):
        ended = await finish(tmp_path, environment(tmp_path / "home"), *arguments)
        assert ended.code == EXIT_USAGE
        assert str(specs / "run.toml") in ended.stderr
        assert "Traceback" not in ended.stderr


async def test_profiles_are_listed_and_broken_ones_named(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home")
    listed = await finish(tmp_path, environment(tmp_path / "home"), "--profile-list")
    assert (listed.code, listed.stderr) == (EXIT_OK, "")
    assert listed.stdout.split()[:2] == [PROFILE, "procedural"]
    broken = home.path.with_name("broken.json")
    broken.write_text("{")
    listed = await finish(tmp_path, environment(tmp_path / "home"), "--profile-list")
    assert PROFILE in listed.stdout
    _assert_refused(listed, str(broken), stdout=listed.stdout)


async def test_a_flag_wins_over_the_environment_that_over_dotenv_and_empty_is_unset(tmp_path: Path) -> None:
    """A profile that is not there is named in the message, and so tells where it came from."""
    make_home(tmp_path / "home")
    (tmp_path / ".env").write_text("PROFILE=of-dotenv\nRUNNER_TAGS=\n")

    async def chosen(*arguments: str, **variables: str) -> str:
        ended = await finish(tmp_path, environment(tmp_path / "home", **variables), *arguments, *URL)
        assert ended.code == EXIT_USAGE
        return ended.stderr

    assert "'of-dotenv'" in await chosen()
    assert "'of-dotenv'" in await chosen(PROFILE="")
    assert "'of-environment'" in await chosen(PROFILE="of-environment")
    assert "'of-environment'" in await chosen("--profile", "", PROFILE="of-environment")
    assert "'of-flag'" in await chosen("--profile", "of-flag", PROFILE="of-environment")
    (tmp_path / ".env").write_text("PROFILE=\n")
    assert "'echo'" in await chosen(PROFILE="")


async def test_a_variable_with_a_bad_value_is_named(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    (tmp_path / ".env").write_text("POLL_TIMEOUT=soon\n")
    ended = await finish(tmp_path, environment(tmp_path / "home"), *URL)
    _assert_refused(ended, "POLL_TIMEOUT in .env", "soon")
    ended = await finish(tmp_path, environment(tmp_path / "home", POLL_TIMEOUT="never"), *URL)
    _assert_refused(ended, "POLL_TIMEOUT: 'never'")


def _assert_refused(ended: Finished, *named: str, stdout: str = "") -> None:
    assert ended.code == EXIT_USAGE, ended
    assert ended.stdout == stdout
    assert "Traceback" not in ended.stderr
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1, ended.stderr
    for text in named:
        assert text in ended.stderr, ended.stderr
