"""No secret of the runner is visible anywhere, whatever an executor prints."""

import asyncio
import base64
from pathlib import Path
from urllib.parse import quote

from tests.support.home import PROFILE, make_home
from tests.support.program import environment, finish, program
from tests.support.runner import open_system
from tests.support.scripts import script_bench

SECRET = "S3cr3t/of+the?runner=&zwölf"
SCRIPTS = {
    # In two writes, and in forms that are not the secret's own.
    "fail": "head -c 9 secret >&2; tail -c +10 secret >&2; echo >&2; base64 -w 0 secret >&2; cat url >&2; exit 3",
    "show": "cat secret; echo; cat url; echo; base64 -w 0 secret",
    "json": "cat object",
}


def forms() -> list[str]:
    return [SECRET, quote(SECRET, safe=""), base64.b64encode(SECRET.encode()).decode()]


async def test_a_secret_is_in_no_log_journal_report_or_result(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "url").write_text(quote(SECRET, safe=""))
    (tmp_path / "object").write_text(f'{{"token": "{SECRET}", "{SECRET}": 1}}')
    variables = environment(
        tmp_path / "home", DEPLOY_TOKEN=SECRET, HTTP_PROXY=f"http://me:{quote(SECRET, safe='')}@[::1]:9"
    )
    state = ("--state-dir", str(tmp_path / "state"))
    async with script_bench(tmp_path, SCRIPTS) as system:
        flags = ("--profile", PROFILE, "--coordinator-url", system.proxy.url, "--verbose", *state)
        async with program(tmp_path, variables, *flags) as runner:
            await runner.said("online")
            runs = [await system.submit(f"run-{name}") for name in SCRIPTS]
            ends = ("failed", "completed", "completed")
            for run, end in zip(runs, ends, strict=True):
                await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/{end}")
            received = [await system.api.run(run.run_id) for run in runs]
            results = [await system.result(run) for run in runs[1:]]
            shown = await finish(tmp_path, variables, "health", *state)
            journal = b"".join(await asyncio.to_thread(_contents, tmp_path / "state"))
            commands = b"".join(await asyncio.to_thread(_command_lines))
            runner.terminate()
            assert await runner.exit_code() == 0
        histories = [await finish(tmp_path, variables, "history", run.run_id, *state) for run in runs]
    assert results[1] == {"token": "***", "***": 1}
    assert (received[0].error or "").startswith("***\n")
    seen = [
        *runner.lines,
        *(str(each) for each in (*received, *results)),
        shown.stdout,
        *(each.stdout + each.stderr for each in histories),
        journal.decode(errors="replace"),
        commands.decode(errors="replace"),
    ]
    assert [form for form in forms() if any(form in text for text in seen)] == []


LEAKING = """
name = "leaking"
initial = "show"

[states.show]
command = { run = ["cat", "object"] }
schema = { type = "object" }
timeout_s = 60
on_done = "fail"

[states.fail]
command = { run = ["sh", "-c", "cat object url >&2; exit 3"] }
timeout_s = 60
on_done = "completed"
"""


async def test_a_secret_is_in_no_value_of_a_workflow(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", workflow="leaking").home
    (home / "workflows").mkdir()
    (home / "workflows" / "leaking.toml").write_text(LEAKING)
    (tmp_path / "url").write_text(quote(SECRET, safe=""))
    (tmp_path / "object").write_text(f'{{"token": "{SECRET}", "{SECRET}": 1}}')
    variables = environment(home, DEPLOY_TOKEN=SECRET)
    state = ("--state-dir", str(tmp_path / "state"))
    async with open_system(tmp_path) as system:
        flags = ("--profile", PROFILE, "--coordinator-url", system.proxy.url, "--verbose", *state)
        async with program(tmp_path, variables, *flags) as runner:
            await runner.said("online")
            run = await system.submit("say", text="hello")
            await system.proxy.answered("POST", f"/runner/runs/{run.run_id}/failed")
            received = await system.api.run(run.run_id)
            runner.terminate()
            assert await runner.exit_code() == 0
    history = await finish(tmp_path, variables, "history", run.run_id, "--json", *state)
    journal = b"".join(await asyncio.to_thread(_contents, tmp_path / "state")).decode(errors="replace")
    assert '"data":{"token":"***","***":1}' in history.stdout
    seen = [*runner.lines, str(received), history.stdout, journal]
    assert [form for form in forms() if any(form in text for text in seen)] == []


async def test_an_error_of_the_command_line_shows_no_login(tmp_path: Path) -> None:
    url = "http://me:pass-word@127.0.0.1:9"
    refused = await finish(tmp_path, environment(None), "submit", "echo", "-c", url)
    assert refused.code != 0
    assert "127.0.0.1:9" in refused.stderr
    assert "pass-word" not in refused.stderr


def _contents(folder: Path) -> list[bytes]:
    return [file.read_bytes() for file in folder.rglob("*") if file.is_file()]


def _command_lines() -> list[bytes]:
    """Return the command lines of all processes, if the system shows them in files."""
    lines = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(file.read_bytes())
        except OSError:  # it has ended
            continue
    return lines


async def test_secrets_of_a_dotenv_file_are_hidden_in_the_result_of_a_run(tmp_path: Path) -> None:
    make_home(tmp_path / "home")
    (tmp_path / ".env").write_text("DEPLOY_TOKEN=dotenv-secret-123\n")
    variables = environment(tmp_path / "home")
    ended = await finish(tmp_path, variables, "run", "say", "text=dotenv-secret-123", "--profile", PROFILE)
    assert (ended.code, ended.stdout) == (0, '{"said": "***"}\n')
