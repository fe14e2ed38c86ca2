"""The command line of `fsm-runner machine`."""

import os
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fsm_runner.cli.machine import app
from fsm_runner.errors import FsmRunnerError, UsageError
from fsm_runner.machine.render.embed import marker

ROOT = Path(__file__).parents[2]

BROKEN = (ROOT / "specs" / "run.toml").read_text().replace("cap_s = 2 ", "cap_s = 0.1 ")
BROKEN_LINE = 1 + next(index for index, line in enumerate(BROKEN.splitlines()) if "cap_s = 0.1 " in line)
NAME_LINE = 1 + BROKEN.splitlines().index('name = "run"')


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FSM_RUNNER_HOME", raising=False)
    return tmp_path


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, words)


def refusal(*words: str) -> FsmRunnerError:
    result = invoke(*words)
    assert isinstance(result.exception, FsmRunnerError), result.output
    assert result.stdout == ""
    return result.exception


def test_check_prints_nothing_for_the_programs_own_specs() -> None:
    for words in (["check"], ["check", "run"], ["check", str(ROOT / "specs" / "runner.toml")]):
        result = invoke(*words)
        assert (result.exit_code, result.output) == (0, "")


def test_check_lists_the_defects_of_a_file() -> None:
    Path("broken.toml").write_text(BROKEN.replace('to = "executing"', 'to = "exekuting"'))
    result = invoke("check", "broken.toml")
    assert result.exit_code == 1
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0] == f"broken.toml:{BROKEN_LINE}: states.preparing_workspace.retry.cap_s: is below base_s (0.1 < 0.2)"
    line = BROKEN.splitlines().index('to = "executing"') + 1
    assert f'broken.toml:{line}: transitions[2].to: "exekuting" is not a state (did you mean "executing"?)' in lines


def test_check_takes_several_files_and_reports_each() -> None:
    for name in ("first.toml", "second.toml"):
        Path(name).write_text(BROKEN)
    result = invoke("check", "first.toml", str(ROOT / "specs" / "run.toml"), "second.toml")
    assert result.exit_code == 1
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == ["first.toml", "second.toml"]


def test_the_hooks_for_other_repositories_start_commands_that_exist() -> None:
    hooks = re.findall(
        r"^  entry: fsm-runner machine (\w+)$", (ROOT / ".pre-commit-hooks.yaml").read_text(), re.MULTILINE
    )
    assert hooks == ["check", "diagram"]
    spec, document = str(ROOT / "specs" / "run.toml"), str(ROOT / "docs" / "machines.md")
    assert invoke("check", spec).exit_code == 0
    assert invoke("diagram", spec, "--check", document).exit_code == 0


def test_check_finds_the_specs_of_a_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "run.toml").write_text(BROKEN)
    monkeypatch.setenv("FSM_RUNNER_HOME", str(tmp_path))
    assert invoke("check").stdout.startswith(f"specs/run.toml:{BROKEN_LINE}: ")
    (tmp_path / "specs" / "run.toml").write_text(BROKEN.replace('name = "run"', 'name = "walk"'))
    assert invoke("check", "run").stdout.startswith(
        f'specs/run.toml:{NAME_LINE}: name: must be "run", like the file\nspecs/run.toml:{BROKEN_LINE}: '
    )


def test_only_the_programs_own_specs_are_judged_against_its_actors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    foreign = (ROOT / "specs" / "run.toml").read_text().replace('"may_run_again"', '"is_early"')
    Path("run.toml").write_text(foreign)
    assert invoke("check", "run.toml").output == ""
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "run.toml").write_text(foreign)
    Path("link.toml").symlink_to("specs/run.toml")
    monkeypatch.setenv("FSM_RUNNER_HOME", str(tmp_path))
    for file in ("run", "specs/run.toml", "./specs/../link.toml"):
        assert '"is_early" is not one of the guards of this machine\'s actor' in invoke("check", file).stdout
    assert invoke("check", "run.toml").output == ""


def test_a_file_that_is_not_a_spec_is_refused(tmp_path: Path) -> None:
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    for command in ("check", "diagram"):
        assert "no such file" in str(refusal(command, "gone.toml"))
        assert "directory" in str(refusal(command, str(tmp_path)))
        assert "pipe: this is not a regular file" in str(refusal(command, "pipe"))
        assert "loop: cannot be read: Too many levels of symbolic links" in str(refusal(command, "loop"))
        assert refusal(command, "gone.toml").exit_code == 2
    Path("image.toml").write_bytes(b"\x89PNG")
    assert invoke("check", "image.toml").stdout == "image.toml:1: is not UTF-8: byte 0x89\n"


def test_diagram_draws_the_run_in_mermaid_by_default() -> None:
    assert invoke("diagram").stdout.startswith("stateDiagram-v2\n")
    assert invoke("diagram", "runner", "--format", "dot").stdout.startswith("digraph machine {\n")
    assert "### The machine `runner`" in invoke("diagram", "runner", "--format", "markdown").stdout


def test_diagram_refuses_an_unknown_format_and_a_broken_machine() -> None:
    error = refusal("diagram", "--format", "jpeg")
    assert isinstance(error, UsageError)
    assert "mermaid, markdown, tables, svg, png, dot, plantuml, scxml, xstate" in str(error)
    Path("broken.toml").write_text(BROKEN)
    error = refusal("diagram", "broken.toml")
    assert error.exit_code == 1
    assert f"broken.toml:{BROKEN_LINE}: " in str(error)


def test_diagram_renews_a_document_and_checks_it() -> None:
    document = Path("doc.md")
    document.write_text(f"Before\n{marker('run', 'markdown')}\n<!-- /machine -->\nAfter\n")
    stale = invoke("diagram", "--check", "doc.md")
    assert stale.exit_code == 1
    assert "+stateDiagram-v2\n" in stale.stdout
    assert stale.stdout.endswith("renew it: fsm-runner machine diagram run --output doc.md\n")
    assert invoke("diagram", "--output", "doc.md").exit_code == 0
    current = invoke("diagram", "--check", "doc.md")
    assert (current.exit_code, current.output) == (0, "")
    assert document.read_text().startswith("Before\n")
    assert document.read_text().endswith("After\n")


def test_a_document_without_markers_is_compared_as_a_whole() -> None:
    assert invoke("diagram", "-f", "dot", "-o", "run.dot").exit_code == 0
    assert invoke("diagram", "-f", "dot", "--check", "run.dot").exit_code == 0
    error = refusal("diagram", "--check", "run.dot")
    assert error.exit_code == 1
    assert "<!-- machine: run format: markdown -->" in str(error)


def test_a_document_without_a_place_for_the_drawing_is_not_replaced() -> None:
    document = Path("doc.md")
    document.write_text("# My notes\n")
    for form in ("mermaid", "markdown", "dot"):
        error = refusal("diagram", "-f", form, "-o", "doc.md")
        assert error.exit_code == 2
        assert "would replace this document" in str(error)
    assert document.read_text() == "# My notes\n"
    for _ in range(2):
        assert invoke("diagram", "-f", "markdown", "-o", "run.md").exit_code == 0


def test_a_document_that_cannot_be_checked_is_a_usage_error() -> None:
    Path("open.md").write_text(f"{marker('run', 'dot')}\n")
    Path("latin.md").write_bytes(b"\xe4")
    for words, expected in (
        (["--check", "gone.md"], "cannot be read"),
        (["--check", "open.md"], "line 1"),
        (["--check", "latin.md"], "not UTF-8"),
        (["--check", "open.md", "--format", "png"], "compares text"),
        (["--format", "scxml", "--brief"], "no brief form"),
        (["--check", "open.md", "--output", "x"], "cannot be used together"),
        (["--output", "no/such/folder.md"], "cannot be written"),
    ):
        error = refusal("diagram", *words)
        assert isinstance(error, UsageError)
        assert expected in str(error)


WORKFLOW = """\
name = "ask-first"
initial = "ask"
[states.ask]
approval = { question = "Go on?" }
timeout_s = 60
on_done = "work"
on_denied = "failed"
[states.work]
turn = { session = "new" }
timeout_s = 60
on_done = "completed"
"""


@pytest.fixture
def home(elsewhere: Path) -> Path:
    """A home with a workflow, and a profile with an agent."""
    for folder in ("profiles", "agents", "workflows"):
        (elsewhere / folder).mkdir()
    (elsewhere / "workflows" / "ask-first.toml").write_text(WORKFLOW)
    (elsewhere / "profiles" / "own.json").write_text('{"type": "autonomous", "command": "x", "agents_dir": "agents"}')
    (elsewhere / "agents" / "helper.json").write_text('{"name": "helper"}')
    return elsewhere


def test_check_finds_the_defects_of_workflows_by_name_and_by_path(home: Path) -> None:
    (home / "workflows" / "ask-first.toml").write_text(WORKFLOW.replace('"work"', '"wrok"'))
    for words in (["check"], ["check", "ask-first"], ["check", "workflows/ask-first.toml"]):
        result = invoke(*words)
        assert result.exit_code == 1
        assert result.stdout == (
            'workflows/ask-first.toml:6: states.ask.on_done: "wrok" is not a state (did you mean "work"?)\n'
        )
    (home / "workflows" / "ask-first.toml").write_text("[")
    assert invoke("check").stdout.startswith("workflows/ask-first.toml:1: is not TOML")


def test_check_finds_files_whose_name_no_workflow_can_have(home: Path) -> None:
    for name in ("two words.toml", ".hidden.toml", "ask-first.scenarios.toml"):
        (home / "workflows" / name).write_text("")
    result = invoke("check")
    assert (result.exit_code, result.stdout) == (
        1,
        f"{home}/workflows/two words.toml: no workflow can have this name: use letters, digits, `-` and `_`\n",
    )


def test_a_name_of_a_machine_and_of_a_workflow_is_ambiguous(home: Path) -> None:
    path = home / "workflows" / "run.toml"
    path.write_text(WORKFLOW.replace("ask-first", "run"))
    for command in ("check", "diagram", "test"):
        assert "run: is both a machine and a workflow: name the file, " in str(refusal(command, "run"))
        assert "or workflows/run.toml" in str(refusal(command, "run"))
    assert invoke("check", "workflows/run.toml").exit_code == 0


def test_check_notes_agents_that_no_profile_here_has(home: Path) -> None:
    path = home / "workflows" / "ask-first.toml"
    text = WORKFLOW.replace('turn = { session = "new" }', 'agent = { name = "helpr" }')
    path.write_text(text)
    result = invoke("check", "ask-first")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.splitlines()[-1] == (
        'workflows/ask-first.toml:9: states.work.agent.name: note: no profile here has the agent "helpr" (did you mean '
        '"helper"?); another runner must offer it'
    )
    path.write_text(text.replace("helpr", "helper"))
    assert "helper" not in invoke("check", "ask-first").stderr


def test_a_file_of_scenarios_is_no_machine(home: Path) -> None:
    path = home / "workflows" / "ship.scenarios.toml"
    path.write_text("")
    for words in (["check", str(path)], ["diagram", str(path)]):
        assert f"carry them out with `fsm-runner machine test {path}`" in str(refusal(*words))


def test_check_says_that_agents_could_approve_their_own_requests(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = invoke("check", "ask-first")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("workflows/ask-first.toml:4: states.ask.approval: note: an agent with the rights")
    monkeypatch.setenv("RUN_AS", "agent")
    assert invoke("check", "ask-first").stderr == ""


def test_check_finds_profiles_and_agents_that_name_no_usable_workflow(home: Path) -> None:
    profile = '{"type": "procedural", "command": "executors/procedural/ao-procedural-exec", "workflow": "ask-first"}'
    (home / "profiles" / "commands.json").write_text(profile)
    (home / "agents" / "helper.json").write_text('{"name": "helper",\n "workflow": "ask-frist"}')
    result = invoke("check")
    assert result.exit_code == 1
    of_profile, of_agent = result.stdout.splitlines()
    assert of_profile.startswith(
        f"{home}/profiles/commands.json:1: workflow: {home}/workflows/ask-first.toml: states.work"
    )
    assert "a procedural agent has no conversation" in of_profile
    assert of_agent.startswith(f"{home}/agents/helper.json:2: workflow: Workflow not found: 'ask-frist' (did you mean ")
    assert '(did you mean "ask-first"?); there are: ' in of_agent


def test_check_finds_an_agent_whose_children_would_follow_its_workflow_again(home: Path) -> None:
    text = WORKFLOW.replace('turn = { session = "new" }', "agent = {}")
    (home / "workflows" / "ask-first.toml").write_text(text)
    (home / "agents" / "helper.json").write_text('{"name": "helper", "workflow": "ask-first"}')
    result = invoke("check")
    assert result.exit_code == 1
    assert "states.work.agent: the agent 'helper' names this workflow" in result.stdout
