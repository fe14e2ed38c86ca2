"""`fsm-runner executor check`: output, exit code, and the choice of the profile."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from fsm_runner.conformance.cases import CASES
from fsm_runner.errors import EXIT_ABORTED, EXIT_FAILED, EXIT_OK, EXIT_USAGE
from fsm_runner.protocol.statuses import LIFECYCLES
from tests.support.broken_executors import write_executor
from tests.support.fifo import Fifo
from tests.support.processes import gone
from tests.support.program import Finished, environment, finish, program

TAKES_ANY_MODE = ('if invocation["mode"] not in ("start", "resume"):', "if False:")
"""A fault that one case catches."""
REQUIRES_ITS_PROFILE = (
    TAKES_ANY_MODE[0],
    'if (invocation["executor_config"], os.environ.get("VOLUME")) != ({"tone": "low"}, "11"):\n'
    '        raise Refused("not as the profile says")\n    ' + TAKES_ANY_MODE[0],
)


async def check(folder: Path, *arguments: str, home: Path | None = None, **variables: str) -> Finished:
    return await finish(folder, environment(home, **variables), "executor", "check", *arguments)


def rows(ended: Finished) -> dict[str, str]:
    """Return the status of each case."""
    lines = [line.split() for line in ended.stdout.splitlines()]
    return {words[1]: words[0] for words in lines if len(words) > 2 and words[0] in ("ok", "FAILED", "-", "untried")}


def temporary_folders(folder: Path) -> list[Path]:
    return list(folder.glob("executor-check-*"))


def write_profile(home: Path, name: str, **fields: Any) -> None:
    (home / "profiles").mkdir(parents=True, exist_ok=True)
    profile = {"type": "autonomous", "command": "shout", "config": {"tone": "low"}, "env": ["VOLUME"], **fields}
    (home / "profiles" / f"{name}.json").write_text(json.dumps(profile))


async def test_the_table_lists_each_case(tmp_path: Path) -> None:
    write_executor(tmp_path, "shout")
    ended = await check(tmp_path, "shout")
    assert (ended.code, ended.stderr) == (EXIT_OK, ""), ended.stdout
    asked = {case.name for case in CASES if "one_shot" in case.lifecycles and not case.needs_limit}
    assert rows(ended) == {case.name: "ok" if case.name in asked else "-" for case in CASES}
    assert ended.stdout.startswith(f"{tmp_path / 'shout'}, without a profile that names it (one_shot, ")
    assert "\n\none_shot\n" in ended.stdout
    assert f"\n{len(asked)} of {len(asked)} passed (-: " in ended.stdout


@pytest.mark.parametrize("lifecycle", LIFECYCLES)
async def test_a_limit_is_provoked_by_parameters(tmp_path: Path, lifecycle: str) -> None:
    """The executor uses the SDK."""
    (tmp_path / "shout").write_text(
        f"#!{sys.executable}\nimport fsm_executor\n"
        "async def main(session):\n"
        "    await session.bind('mine')\n"
        "    async for turn in session.turns():\n"
        "        if turn.prompt == 'too much':\n"
        "            await turn.limited('five_hour', 1772377200, message='Wait')\n"
        "        else:\n"
        "            await turn.complete(turn.prompt)\n"
        "fsm_executor.run(main, name='shout', version='1.0')\n"
    )
    (tmp_path / "shout").chmod(0o755)
    limited = ("--limited-parameters", '{"prompt": "too much"}')
    ended = await check(tmp_path, "shout", "--lifecycle", lifecycle, *limited)
    assert (ended.code, ended.stderr) == (EXIT_OK, ""), ended.stdout
    (row,) = (line for line in ended.stdout.splitlines() if line.split()[1:2] == ["limited"])
    assert row.startswith("ok")
    assert row.endswith("(lives on)" if lifecycle == "persistent" else "(exits)")


async def test_a_limit_that_is_not_provoked_is_a_failure(tmp_path: Path) -> None:
    write_executor(tmp_path, "shout")
    ended = await check(tmp_path, "shout", "--limited-parameters", '{"prompt": "nothing"}')
    assert ended.code == EXIT_FAILED
    assert [name for name, status in rows(ended).items() if status == "FAILED"] == ["limited"]
    assert "it sent no metadata with a limit, with the parameters of --limited-parameters" in ended.stdout


async def test_a_failure_is_printed_with_its_transcript(tmp_path: Path) -> None:
    write_executor(tmp_path, "shout", TAKES_ANY_MODE)
    ended = await check(tmp_path, "./shout")
    assert (ended.code, ended.stderr) == (EXIT_FAILED, "")
    assert [name for name, status in rows(ended).items() if status == "FAILED"] == ["unknown-mode"]
    _, shown = ended.stdout.split("FAILED unknown-mode (one_shot)")
    assert "it sent a message although it must refuse its input: POST /bind got HTTP 200" in shown
    for said in (
        'stdin    {"schema_version":"2.2","mode":"meditate"',
        "request  POST /bind",
        "response 200 {",
        "exited   with",
    ):
        assert said in shown
    assert "1 failed" in shown


async def test_a_rejected_event_appears_in_the_transcript_but_not_in_the_log(tmp_path: Path) -> None:
    write_executor(tmp_path, "shout", ('"timestamp": now(), ', ""))
    ended = await check(tmp_path, "shout")
    assert (ended.code, ended.stderr) == (EXIT_FAILED, "")
    assert rows(ended)["start"] == "FAILED"
    assert "response 422 {" in ended.stdout


async def test_both_lifecycles_as_json(tmp_path: Path) -> None:
    write_executor(tmp_path, "shout", TAKES_ANY_MODE)
    ended = await check(tmp_path, "shout", "--lifecycle", "both", "--json")
    assert (ended.code, ended.stderr) == (EXIT_FAILED, "")
    outcomes = [json.loads(line) for line in ended.stdout.splitlines()]
    assert {each["lifecycle"] for each in outcomes} == {"one_shot", "persistent"}
    (one_shot, persistent) = (each for each in outcomes if each["status"] == "FAILED")
    assert (one_shot["case"], persistent["case"]) == ("unknown-mode", "unknown-mode")
    assert one_shot["transcript"]
    assert one_shot["duration_s"] > 0


async def test_the_profile_that_names_the_executor_provides_lifecycle_and_config(tmp_path: Path) -> None:
    home = tmp_path / "home"
    write_profile(home, "a-shout", lifecycle="persistent")
    write_profile(home, "b-shout", config={})
    (home / "profiles" / "c-broken.json").write_text("{")
    write_executor(home, "shout", REQUIRES_ITS_PROFILE)
    ended = await check(tmp_path, "home/shout", home=home, VOLUME="11")
    assert ended.code == EXIT_OK, ended.stdout
    assert "the profile a-shout (also named by b-shout)\n\npersistent\n" in ended.stdout

    other = await check(tmp_path, "home/shout", "--profile", "b-shout", home=home, VOLUME="11")
    assert other.code == EXIT_FAILED
    assert "\none_shot\n" in other.stdout
    assert "Error: not as the profile says" in other.stdout


async def test_the_executor_gets_the_given_parameters(tmp_path: Path) -> None:
    needs_topic = ('prompt = parameters.get("prompt", "")', 'prompt = parameters["topic"]')
    write_executor(tmp_path, "shout", needs_topic)
    ended = await check(tmp_path, "shout", "--parameters", '{"depth": 2, "topic": "owls"}', "--lifecycle", "persistent")
    assert ended.code == EXIT_OK, ended.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing-here"], "there is no executor"),
        (["."], "is a directory"),
        (["x" * 300], "File name too long"),
        (["text"], "is not executable: run `chmod +x"),
        (["lost"], "/no/such/interpreter, does not exist"),
        (["shout", "--lifecycle", "eternal"], "--lifecycle: unknown value 'eternal'"),
        (["shout", "--profile", "unknown"], "Profile not found: 'unknown'"),
        (["shout", "--parameters", "[]"], "--parameters: not a JSON object"),
        (["shout", "--limited-parameters", "{"], "--limited-parameters: not a JSON object"),
        (["shout", "--timeout", "soon"], "--timeout: 'soon' is not a number of seconds"),
        (["shout", "--timeout", "0"], "--timeout: '0' is not a number of seconds"),
    ],
)
async def test_bad_arguments(tmp_path: Path, arguments: list[str], said: str) -> None:
    write_executor(tmp_path, "shout")
    (tmp_path / "text").write_text("hello\n")
    (tmp_path / "lost").write_text("#!/no/such/interpreter\n")
    (tmp_path / "lost").chmod(0o755)
    ended = await check(tmp_path, *arguments)
    assert ended.code == EXIT_USAGE
    assert ended.stderr.startswith("error: ")
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


async def test_a_terminated_check_leaves_no_executor_running(tmp_path: Path) -> None:
    async with Fifo(tmp_path / "pids") as pids:
        executor = tmp_path / "hangs"
        executor.write_text(f"#!/bin/sh\ntrap '' TERM\necho $$ > '{pids.path}'\nwhile :; do sleep 1; done\n")
        executor.chmod(0o755)
        env = {**environment(None), "TMPDIR": str(tmp_path)}
        async with program(tmp_path, env, "executor", "check", "hangs") as checking:
            pid = await pids.pid()
            checking.terminate()
            assert await checking.exit_code() == EXIT_ABORTED
            await gone(pid)
            assert checking.lines == []
    assert temporary_folders(tmp_path) == []
