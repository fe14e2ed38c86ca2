"""`fsm-runner machine test`: scenarios of workflows."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fsm_runner.cli.machine import app
from fsm_runner.errors import UsageError

FLOW = """\
name = "flow"
initial = "work"
params = { task = "string" }
budget = { max_wall_s = 600 }

[states.work]
turn = { prompt = "${params.task}" }
on_done = "verify"

[states.verify]
command = { run = ["pytest"], stdin = "${work.result}" }
timeout_s = 60
max_visits = 3
on_done = "plan"
on_error = "fix"
on_timeout = "ask"
on_interrupted = "repeat"

[states.fix]
turn = { prompt = "Failed:\\n${verify.stdout}" }
assigns = "work"
on_done = "verify"
on_interrupted = "ask"

[states.plan]
turn = { prompt = "Plan." }
schema = { type = "object", required = ["tasks"], properties = { tasks = { type = "array" } } }
on_done = [
    { when = "size(plan.data.tasks) > 0", to = "fan" },
    { to = "route" },
]

[states.fan]
agent = { name = "child", each = "${plan.data.tasks}", parameters = { prompt = "${item} ${index}" }, may_fail = 1 }
on_done = [
    { when = "fan.failed > 0", to = "ask" },
    { to = "route" },
]

[states.route]
on_done = "completed"

[states.ask]
approval = { question = "Go on?" }
timeout_s = 60
on_done = "completed"
on_denied = "rejected"

[states.rejected]
final = true
outcome = "failed"
error = "not approved by ${ask.by}: ${ask.comment}"
"""

SCENARIO = """\
[[scenarios]]
name = "verify fails twice, then passes"
parameters = { task = "Fix it." }
expect = { EXPECT }

[scenarios.results]
work = [{ result = "v1" }]
verify = [{ exit_code = 1, stdout = "1 failed" }, { exit_code = 2 }, {}]
fix = { result = "v2" }
plan = [{ data = { tasks = [] }, result = "nothing to do" }]
"""
EXPECT = (
    'visits = { work = 1, verify = 3, fix = 2, ask = 0 }, result = "nothing to do", '
    'path = ["work", "verify", "fix", "verify", "fix", "verify", "plan", "route", "completed"]'
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "workflows").mkdir()
    (tmp_path / "workflows" / "flow.toml").write_text(FLOW)
    monkeypatch.setenv("FSM_RUNNER_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def tried(scenarios: str, *words: str) -> Result:
    Path("workflows/flow.scenarios.toml").write_text(scenarios)
    return CliRunner().invoke(app, ["test", *words], catch_exceptions=False)


def outcome(expect: str = "", old: str = "", new: str = "") -> list[str]:
    """Return the lines about the scenario, changed at one place, without the times."""
    result = tried(SCENARIO.replace(old, new, 1).replace("EXPECT", expect), "flow")
    lines = [re.sub(r" +[0-9.]+ ms ", "", line).strip() for line in result.stdout.splitlines()]
    assert result.exit_code == (1 if any("FAILED" in line or ".toml:" in line for line in lines) else 0)
    return lines


def test_a_scenario_that_the_workflow_satisfies() -> None:
    assert outcome(EXPECT) == [
        "workflows/flow.scenarios.toml",
        "ok verify fails twice, then passes",
        "1 scenario, 0 failed",
        'no scenario visits "fan", "ask", "rejected"',
    ]


@pytest.mark.parametrize(
    ("expect", "difference"),
    [
        ('outcome = "failed"', "4: expect.outcome: expected failed, but the workflow completed"),
        ("visits = { fix = 3 }", "4: expect.visits.fix: expected 3, not 2"),
        ('result = "all"', '4: expect.result: expected the text "all", not "nothing to do"'),
        ("result = { data = 1 }", '4: expect.result: expected the data 1, not {"tasks":[]}'),
        ('path = ["work"]', "4: expect.path: expected work; it was work → verify → fix → verify"),
    ],
)
def test_a_difference_has_its_line_and_the_path(expect: str, difference: str) -> None:
    lines = outcome(expect)
    assert lines[1] == "FAILED verify fails twice, then passes"
    assert lines[2].startswith(f"workflows/flow.scenarios.toml:{difference}")
    assert lines[3] == "path: work → verify → fix → verify → fix → verify → plan → route → completed"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (", {}]", "]", '8: results.verify: the state "verify" has no result for its visit 3: add one'),
        ('plan = [{ data = { tasks = [] }, result = "nothing to do" }]', "", '6: results: the state "plan" has no'),
        ("work = [{", "work = [{}, {", "7: results.work: has 2 results; the number of visits was 1"),
        ("stdout", "stdoud", '8: scenarios[0].results.verify[0].stdoud: unknown key (did you mean "stdout"?)'),
        ("exit_code = 1", "exit_code = true", "8: scenarios[0].results.verify[0].exit_code: must be a whole number"),
        ("fix =", "fx =", '9: scenarios[0].results.fx: "fx" is not a state (did you mean "fix"?)'),
        ("fix =", "route =", '9: scenarios[0].results.route: the state "route" has no activity'),
        ("fix = { ", "fix = { data = 1, ", "9: scenarios[0].results.fix.data: the state has no `schema`"),
        (
            "fix =",
            "fan = { items = [{ result = 1 }] }\nfix =",
            "9: scenarios[0].results.fan.items[0].result: must be a text",
        ),
        ("tasks = []", "task = []", "10: scenarios[0].results.plan[0].data: does not match the schema of the state"),
        ("data = { tasks = [] }, ", "", "10: scenarios[0].results.plan[0]: needs `data`"),
        (", {}]", ", { interrupted = true }]", "8: scenarios[0].results.verify[2].interrupted: the state has `on_in"),
        ("expect", "expects", '4: scenarios[0].expects: unknown key (did you mean "expect"?)'),
        ("{ EXPECT }", "{ visits = { wrok = 1 } }", '4: scenarios[0].expect.visits.wrok: "wrok" is not a state'),
        ("{ EXPECT }", '{ path = ["wrok"] }', '4: scenarios[0].expect.path[0]: "wrok" is not a state'),
        ("{ EXPECT }", "{ result = { txt = 1 } }", "4: scenarios[0].expect.result.txt: unknown key"),
        ('task = "Fix it."', "task = 1", "3: parameters: the workflow 'flow' needs the parameter 'task' to be of"),
        ("[[scenarios]]\n", "", "1: name: unknown key"),
    ],
)
def test_a_mistake_in_a_scenario_has_its_line_and_a_remedy(old: str, new: str, expected: str) -> None:
    lines = outcome("", old, new)
    assert any(line.startswith(f"workflows/flow.scenarios.toml:{expected}") for line in lines), lines


@pytest.mark.parametrize(
    ("results", "expect"),
    [
        ('work = { error = "no network" }', 'outcome = "failed", error = "no network", path = ["work", "failed"]'),
        (
            "work = {}\nverify = { exit_code = 1 }\nfix = {}",
            'outcome = "failed", error = "`max_visits` (3): exit code 1", visits = { verify = 3 }',
        ),
        ("work = {}\nverify = { timeout = true }\nask = {}", 'path = ["work", "verify", "ask", "completed"]'),
        (
            "work = {}\nverify = { exit_code = 1 }\nfix = { interrupted = true }\n"
            "ask = { approved = false, by = 'kim', comment = 'no' }",
            'outcome = "failed", error = "not approved by kim: no", '
            'path = ["work", "verify", "fix", "ask", "rejected"]',
        ),
        (
            "work = {}\nverify = {}\nplan = { data = { tasks = [1, 2] } }\nfan = {}",
            'path = ["work", "verify", "plan", "fan", "route", "completed"]',
        ),
        (
            "work = {}\nverify = {}\nplan = { data = { tasks = [1, 2] } }\n"
            "fan = { items = [{ error = 'x' }, { result = 'y' }] }\nask = { timeout = true }",
            'outcome = "failed", error = "not approved by deadline", visits = { fan = 1, ask = 1 }',
        ),
        (
            "work = {}\nverify = {}\nplan = { data = { tasks = [1, 2] } }\n"
            "fan = { items = [{ error = 'x' }, { error = 'y' }] }",
            'outcome = "failed", error = "2 of 2 children failed, and 1 may fail"',
        ),
        (
            "work = {}\nverify = {}\nplan = { data = { tasks = 'x' } }",
            'outcome = "completed"',
        ),
    ],
)
def test_each_kind_of_result(results: str, expect: str) -> None:
    text = f'[[scenarios]]\nname = "s"\nparameters = {{ task = "t" }}\nexpect = {{ {expect} }}\n[scenarios.results]\n'
    result = tried(text + results)
    if "'x' } }" in results:
        assert "does not match the schema of the state" in result.stdout
    else:
        assert result.exit_code == 0, result.stdout


def test_the_example_of_the_documentation_passes() -> None:
    documented = (Path(__file__).parents[2] / "docs" / "workflows.md").read_text()
    example = documented.partition("### Scenarios")[2].split("```toml\n")[1].split("```")[0]
    Path("workflows/flow.toml").write_text(
        FLOW.replace('on_done = "plan"', 'on_done = "route"').partition("[states.plan]")[0]
        + """
[states.route]
on_done = "ask"

[states.ask]
approval = { question = "Go on?" }
timeout_s = 60
on_done = "completed"
on_denied = "failed"
"""
    )
    result = tried(example.replace("[scenarios.results]", "[scenarios.results]\nask = {}"))
    assert result.exit_code == 0, result.stdout


def test_a_command_whose_argument_could_be_an_option_does_not_succeed(home: Path) -> None:
    (home / "workflows" / "flow.toml").write_text(FLOW.replace('["pytest"]', '["pytest", "${params.task}"]'))
    lines = outcome("", "Fix it.", "-x")
    assert any("8: results.verify: the command cannot succeed: argument 1 of `pytest` is '-x'" in it for it in lines)


def test_two_scenarios_have_different_names() -> None:
    result = tried(SCENARIO.replace("EXPECT", "") * 2)
    assert result.stdout == "workflows/flow.scenarios.toml:12: scenarios[1].name: is the name of an earlier scenario\n"


def test_the_arguments_of_each_child_are_evaluated(home: Path) -> None:
    (home / "workflows" / "flow.toml").write_text(FLOW.replace("${item} ${index}", "${item.title} ${index}"))
    lines = outcome("", 'tasks = [] }, result = "nothing to do" }]', 'tasks = [{ title = "a" }, {}] } }]\nfan = {}')
    assert any('states.fan.agent.parameters.prompt: "item.title" has no value' in line for line in lines), lines


def test_a_list_in_the_file_has_an_item_for_each_child(home: Path) -> None:
    flow = FLOW.replace('each = "${plan.data.tasks}"', 'each = ["a", "${params.task}", "c"]')
    (home / "workflows" / "flow.toml").write_text(flow)
    lines = outcome("", 'tasks = [] }, result = "nothing to do" }]', "tasks = [1] } }]\nfan = { items = [{}] }")
    assert any("the visit starts 3 children, but `items` has 1 results" in line for line in lines), lines


def test_children_without_a_result_are_a_mistake() -> None:
    lines = outcome("", "tasks = []", "tasks = [1, 2]") + outcome(
        "",
        'plan = [{ data = { tasks = [] }, result = "nothing to do" }]',
        "plan = { data = { tasks = [1, 2] } }\nfan = { items = [{}] }",
    )
    assert 'workflows/flow.scenarios.toml:6: results: the state "fan" has no result for its visit 1: add one' in lines
    assert (
        "workflows/flow.scenarios.toml:11: results.fan: the visit starts 2 children, but `items` has 1 results" in lines
    )


def test_all_workflows_of_the_home_are_tested(home: Path) -> None:
    (home / "workflows" / "bare.toml").write_text(FLOW.replace('"flow"', '"bare"'))
    (home / "workflows" / "broken.toml").write_text("x = 1")
    (home / "workflows" / "broken.scenarios.toml").write_text("")
    result = tried(SCENARIO.replace("EXPECT", EXPECT))
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert "workflows/bare.toml: has no scenarios" in lines
    assert "workflows/broken.toml:1: initial: is missing" in lines
    assert "  1 scenario, 0 failed" in lines


def test_a_workflow_is_named_by_its_file_or_that_of_its_scenarios(home: Path) -> None:
    text = SCENARIO.replace("EXPECT", EXPECT)
    for word in ("flow", "workflows/flow.toml", "workflows/flow.scenarios.toml"):
        assert tried(text, word).exit_code == 0
    (home / "workflows" / "flow.scenarios.toml").unlink()
    result = CliRunner().invoke(app, ["test", "flow"])
    assert isinstance(result.exception, UsageError)
    assert "workflows/flow.toml: has no scenarios: write workflows/flow.scenarios.toml" in str(result.exception)
