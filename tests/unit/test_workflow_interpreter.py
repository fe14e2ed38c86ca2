"""The interpreter of workflows: where each ending leads, and what the states and the result contain."""

from collections.abc import Callable
from typing import Any

import pytest

from fsm_runner.errors import UsageError
from fsm_runner.workflow.definition import Agent, Approval, Command, Turn
from fsm_runner.workflow.file import LoadedWorkflow, restore_workflow
from fsm_runner.workflow.interpreter import Interpreter, RunFacts, WorkflowFault

RUN = RunFacts("run-1", "ses-1", "/project")

LOOP = """\
name = "loop"
initial = "work"
params = { task = "string", tries = { type = "integer", default = 3 } }
result = { text = "done: ${work.result}", data = { by = "${decision.by}", tries = "${params.tries}" } }

[states.work]
turn = { prompt = "${params.task} in ${run.project_dir}" }
timeout_s = 60
on_done = "verify"

[states.verify]
command = { run = ["pytest", "--title=${params.task}", "${params.task}"], stdin = "${work.result}" }
timeout_s = 60
max_visits = 2
on_done = "route"
on_error = "fix"
on_interrupted = "work"

[states.route]
on_done = "ask"

[states.fix]
turn = { prompt = "Failed:\\n${verify.stdout}" }
assigns = "work"
timeout_s = 60
on_done = "verify"

[states.ask]
approval = { question = "Merge ${work.result}?" }
assigns = "decision"
timeout_s = 60
on_done = "completed"
on_denied = "rejected"

[states.rejected]
final = true
outcome = "failed"
error = "not approved by ${decision.by}: ${decision.comment}"
"""

FAN = """\
name = "fan"
initial = "fan"
params = { items = "list" }

[states.fan]
agent = { name = "child", each = "${params.items}", parameters = { a = "${item} of ${run.id}", b = "${run.id}" } }
timeout_s = 60
on_done = "completed"
"""


def loaded(text: str = LOOP) -> LoadedWorkflow:
    return restore_workflow("flow.toml", text, {})


def started(
    text: str = LOOP, clean: Callable[[object], object] = lambda value: value, **parameters: Any
) -> Interpreter:
    interpreter = Interpreter(loaded(text), {"task": "fix it", **parameters}, RUN, clean)
    assert interpreter.enter() == []
    return interpreter


def ok(**fields: Any) -> dict[str, Any]:
    return {"ok": True, "error": "", **fields}


def bad(error: str, **fields: Any) -> dict[str, Any]:
    return {"ok": False, "error": error, **fields}


def path(interpreter: Interpreter, ending: Any, value: dict[str, Any]) -> list[str]:
    steps = interpreter.end(ending, value)
    return [steps[0].source, *(word for step in steps for word in (step.event, step.target))]


def test_a_workflow_from_its_beginning_to_its_result() -> None:
    flow = started()
    assert flow.arguments() == Turn(prompt="fix it in /project")
    assert path(flow, "done", ok(result="v1")) == ["work", "done", "verify"]
    assert flow.arguments() == Command(run=("pytest", "--title=fix it", "fix it"), stdin="v1")
    assert path(flow, "error", bad("exit code 1", stdout="1 failed")) == ["verify", "error", "fix"]
    assert flow.arguments() == Turn(prompt="Failed:\n1 failed")
    assert path(flow, "done", ok(result="v2")) == ["fix", "done", "verify"]
    assert list(flow.values.items())[-1] == ("work", ok(result="v2"))
    assert path(flow, "done", ok()) == ["verify", "done", "route", "chosen", "ask"]
    assert flow.visits == {"work": 1, "verify": 2, "fix": 1, "ask": 1}
    assert flow.arguments() == Approval(question="Merge v2?")
    assert not flow.is_final
    assert flow.outcome is None
    assert path(flow, "done", ok(by="kim", comment="")) == ["ask", "done", "completed"]
    ended: tuple[bool, str | None, str] = (flow.is_final, flow.outcome, flow.error)
    assert ended == (True, "completed", "")
    assert flow.result() == ("done: v2", {"by": "kim", "tries": 3})


def test_a_default_leads_to_failed_with_the_error_of_the_activity() -> None:
    for ending in ("error", "timeout"):
        flow = started()
        assert path(flow, ending, bad("no network")) == ["work", ending, "failed"]
        assert (flow.outcome, flow.error) == ("failed", "no network")


def test_a_final_state_has_the_error_of_its_template() -> None:
    for ending in ("denied", "timeout"):
        flow = started()
        flow.end("done", ok(result="v1"))
        flow.end("done", ok())
        assert path(flow, ending, bad("denied", by="kim", comment="no")) == ["ask", "denied", "rejected"]
        assert flow.error == "not approved by kim: no"


def test_a_state_that_is_used_up_leads_on_at_once() -> None:
    flow = started()
    flow.end("done", ok(result="v1"))
    for _ in range(2):
        flow.end("error", bad("exit code 1", stdout=""))
        steps = path(flow, "done", ok(result="v2"))
    assert steps == ["fix", "done", "verify", "exhausted", "failed"]
    assert flow.error == 'the state "verify" has used up its `max_visits` (2): exit code 1'
    assert flow.visits["verify"] == 2


def test_an_interruption_follows_on_interrupted() -> None:
    flow = started()
    assert [(step.event, step.target) for step in flow.interrupt("gone")] == [("interrupted", "failed")]
    assert flow.error == "gone"
    flow = started()
    flow.end("done", ok(result="v1"))
    assert [(step.event, step.target) for step in flow.interrupt("gone")] == [("interrupted", "work")]
    assert flow.visits == {"work": 2, "verify": 1}


def test_an_interpreter_continues_from_the_journal() -> None:
    flow = Interpreter(loaded(), {"task": "t"}, RUN)
    flow.restore("fix", {"work": 1, "verify": 1, "fix": 1}, {"work": ok(result="v1"), "verify": bad("x", stdout="out")})
    assert flow.arguments() == Turn(prompt="Failed:\nout")
    flow.restore("verify", {"verify": 2}, {"work": ok(result="v1")})
    assert [step.event for step in flow.enter()] == ["exhausted"]
    flow.restore("failed", {"work": 1}, {"verify": bad("old"), "work": bad("no network")})
    assert (flow.outcome, flow.error) == ("failed", "no network")
    with pytest.raises(UsageError, match="'loop' has no state 'gone'"):
        flow.restore("gone", {}, {})


def test_the_texts_of_a_list_in_the_file_are_templates() -> None:
    text = FAN.replace('"${params.items}"', '["a", "${run.id}: ${params.items}", "${params.items}", { b = "$${c}" }]')
    assert started(text, items=[1, "${d}"]).each() == ["a", 'run-1: [1,"${d}"]', [1, "${d}"], {"b": "${c}"}]
    text = FAN.replace('"${params.items}"', '["a", "${params.items.x}"]')
    with pytest.raises(WorkflowFault, match=r"each\[1\]"):
        started(text, items=[]).each()


def test_each_element_has_arguments_of_its_own() -> None:
    items = ["${run.session_id}", {"x": "${item}"}]
    flow = started(FAN, items=items)
    assert flow.each() == items
    assert flow.arguments() == Agent(name="child", parameters={"a": "${item} of ${run.id}", "b": "run-1"})
    assert flow.arguments(items[0], 0) == Agent(
        name="child", parameters={"a": "${run.session_id} of run-1", "b": "run-1"}
    )
    assert flow.arguments(items[1], 1) == Agent(
        name="child", parameters={"a": '{"x":"${item}"} of run-1', "b": "run-1"}
    )
    with pytest.raises(WorkflowFault, match=r"flow\.toml:6: states\.fan\.agent\.each: the list has 1,001 elements"):
        started(FAN, items=[0] * 1001).each()
    assert started().each() is None


def test_a_value_that_is_missing_is_a_fault_with_its_line() -> None:
    flow = started()
    flow.restore("fix", {}, {})
    with pytest.raises(WorkflowFault, match=r'flow\.toml:23: states\.fix\.turn\.prompt: "verify\.stdout" has no value'):
        flow.arguments()


@pytest.mark.parametrize(
    ("data", "kind"), [([1], "list"), ("text", "string"), (3, "integer"), (True, "boolean"), (None, "null")]
)
def test_a_result_whose_data_is_no_object_is_a_fault(data: object, kind: str) -> None:
    text = LOOP.replace('data = { by = "${decision.by}", tries = "${params.tries}" }', 'data = "${params.data}"')
    flow = started(text, data=data)
    flow.restore("completed", {}, {"work": ok(result="v1")})
    with pytest.raises(WorkflowFault, match=rf"flow\.toml:4: result\.data: the value is of the type {kind};"):
        flow.result()
    assert flow.result_text() == "done: v1"


def test_the_data_of_a_result_may_be_an_object_of_the_parameters() -> None:
    text = LOOP.replace('data = { by = "${decision.by}", tries = "${params.tries}" }', 'data = "${params.data}"')
    flow = started(text, data={"a": 1})
    flow.restore("completed", {}, {"work": ok(result="v1")})
    assert flow.result() == ("done: v1", {"a": 1})


def test_values_are_cleaned_and_bounded_when_they_are_assigned() -> None:
    flow = started(clean=lambda value: {**value, "result": "*** \0"} if isinstance(value, dict) else value)
    flow.end("done", ok(result="secret", data="x" * 100_000))
    assert flow.values["work"]["result"] == "*** �"
    assert "bytes left out" in flow.values["work"]["data"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "needs the parameter 'task' .string.; the run has no parameters"),
        ({"task": 1}, "needs the parameter 'task' to be of the type string, not integer"),
        ({"task": "t", "tries": True}, "'tries' to be of the type integer, not boolean; on a command line, tries:=J"),
        ({"task": "t", "tries": 1.5}, "needs the parameter 'tries' to be of the type integer, not number"),
    ],
)
def test_parameters_match_their_declaration(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Interpreter(loaded(), parameters, RUN)


def test_parameters_beyond_the_declaration_are_kept_and_made_readable() -> None:
    flow = started(task="a\0b\ud83d", more=[1])
    assert flow.arguments() == Turn(prompt="a�b� in /project")
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    with pytest.raises(UsageError, match="deeper than 100 levels"):
        started(more=deep)


GUARDS = """\
name = "guards"
initial = "verify"
params = { tries = "integer" }

[states.verify]
command = { run = ["true"] }
schema = { properties = { again = { type = "boolean" } }, required = ["again"] }
timeout_s = 60
on_done = [
    { when = "verify.exit_code > 1 && params.tries > 2", to = "failed" },
    { when = "verify.exit_code == 1 || verify.data.again", to = "verify" },
    { to = "completed" },
]
"""


@pytest.mark.parametrize(
    ("tries", "exit_code", "target"), [(3, 2, "failed"), (2, 2, "completed"), (3, 1, "verify"), (3, 0, "completed")]
)
def test_the_first_branch_whose_guard_holds_is_taken(tries: int, exit_code: int, target: str) -> None:
    flow = started(GUARDS, tries=tries)
    assert path(flow, "done", ok(exit_code=exit_code, data={"again": False})) == ["verify", "done", target]


def test_a_guard_that_cannot_be_evaluated_is_a_fault_and_never_false() -> None:
    flow = started(GUARDS, tries=1)
    with pytest.raises(WorkflowFault, match=r"flow\.toml:11: states\.verify\.on_done\[1\]\.when: column \d+: .*again"):
        flow.end("done", ok(exit_code=0, data={}))
    assert flow.values["verify"]["exit_code"] == 0


def test_a_circle_of_choices_ends_the_workflow() -> None:
    text = 'name = "c"\ninitial = "a"\n[states.a]\non_done = "b"\n[states.b]\non_done = "a"\n'
    with pytest.raises(WorkflowFault, match=r"flow\.toml:3: states\.a: .*would hang"):
        Interpreter(loaded(text), {}, RUN).enter()


def test_runs_of_one_workflow_share_its_machine() -> None:
    assert started()._program is started()._program
