"""Each mistake in a workflow has a finding with its line, what is wrong, and what to do."""

import json
import time
from pathlib import Path

import pytest

from tests.support.workflow_findings import SCHEMA, SOUND, findings


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "review.schema.json").write_text(SCHEMA)
    return tmp_path


def test_a_sound_workflow_has_no_findings(folder: Path) -> None:
    assert findings(folder, SOUND) == []


GIT = 'run = ["git", "diff", "main"]'
DATA = 'data = { by = "${decision.by}", comment = "${decision.comment}" }'
AGENT = 'agent = { name = "reviewer", parameters = { prompt = "Task: ${params.task} Diff: ${diff.stdout}" } }'


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        # Keys.
        (
            "timeout_s = 60\n",
            "timeout_s = 60\nturn = {}\n",
            "13: states.diff: has several activities, turn and command",
        ),
        ("[states.revise]\n", "[states.revise]\nouctome = 1\n", "states.revise.ouctome: unknown key"),
        ('on_done = "review"\n', "", "13: states.diff: needs `on_done`, the next state"),
        ("timeout_s = 86400\n", "", "36: states.ask.approval: needs `timeout_s` in its state"),
        ('on_denied = "rejected"\n', "", "36: states.ask.approval: needs `on_denied` in its state"),
        ("timeout_s = 86400\n", 'timeout_s = 86400\non_timeout = "failed"\n', "an approval that is late is denied"),
        ("timeout_s = 60\n", 'timeout_s = 60\non_denied = "failed"\n', "16: states.diff.on_denied: only an approval"),
        ("timeout_s = 60\n", 'on_timeout = "failed"\n', "15: states.diff.on_timeout: needs `timeout_s`"),
        ("max_visits = 3\n", "", "23: states.review.on_exhausted: needs `max_visits`"),
        ('on_interrupted = "repeat"', 'on_interrupted = "continue"', "16: states.diff.on_interrupted: only a turn can"),
        ("timeout_s = 86400\n", 'timeout_s = 1\non_interrupted = "repeat"\n', "approval always continues after an"),
        ("timeout_s = 86400\n", "timeout_s = 1\nschema = {}\n", "states.ask.schema: approval produces no `data`"),
        ("final = true\n", "final = true\ntimeout_s = 3\n", "44: states.rejected.timeout_s: has no meaning in a final"),
        ('outcome = "failed"\n', "", "42: states.rejected: a final state needs `outcome`"),
        ('outcome = "failed"\n', 'outcome = "completed"\n', "45: states.rejected.error: only a final state with"),
        (
            "final = true\n",
            "",
            "42: states.rejected: needs `final = true`, because it has `outcome` and `error`",
        ),
        ("timeout_s = 60\n", 'timeout_s = 60\noutcome = "failed"\n', "states.diff.outcome: only a final state has"),
        (
            f"command = {{ {GIT} }}",
            'command = "git diff"',
            'states.diff.command: must be a table, not "git diff"; write, for',
        ),
        (
            '{ to = "revise" }',
            '"revise"',
            '27: states.review.on_done[1]: must be a table, not "revise"; write, for example, on_d',
        ),
        (
            f"command = {{ {GIT} }}",
            'prompt = "a"',
            "14: states.diff.prompt: unknown key here: it is an argument of `turn`",
        ),
        (
            'prompt = "${params.task}"',
            "timeout_s = 5",
            "9: states.write.turn.timeout_s: unknown key here: it is a key of",
        ),
        (
            "final = true\n",
            "final = true\nbudget = {}\n",
            "states.rejected.budget: unknown key here: it is a key of the",
        ),
        ("[states.write]\n", "", "8: turn: unknown key here: it is a key of a state, which begins with"),
        (
            'on_denied = "rejected"',
            'on_denied = { to = "rejected" }',
            "not a table; write, for example, on_denied = [{",
        ),
        ('task = "string"', "task = {}", "4: params.task.type: is missing"),
        # Arguments.
        ('prompt = "${params.task}"', 'prompt = "a", parameters = {}', "a turn has either `prompt` or `parameters`"),
        ('name = "reviewer",', 'name = "reviewer", at_once = 2,', "20: states.review.agent.at_once: needs `each`"),
        (
            'name = "reviewer"',
            'name = "${params.task}"',
            "20: states.review.agent.name: the name of an agent is literal",
        ),
        (f"command = {{ {GIT} }}", "wait = {}", "14: states.diff.wait: needs exactly one of `for_s` and `until`"),
        (f"command = {{ {GIT} }}", 'wait = { until = "tomorrow" }', '"tomorrow" is not a time; write a time such as'),
        (f"command = {{ {GIT} }}", 'wait = { until = "2026-03-01T09:00:00" }', "has no offset, so it would be a local"),
        (GIT, 'run = ["${params.task}"]', "14: states.diff.command.run[0]: the program is literal"),
        (GIT, 'run = ["git", "-${params.task}"]', '14: states.diff.command.run[1]: "-${params.task}": the value would'),
        ('prompt = "${params.task}"', 'prompt = ""', "9: states.write.turn.prompt: must be a text that is not empty"),
        (
            GIT,
            f'{GIT}, env = ["A=1"]',
            "14: states.diff.command.env[0]: must be a name of letters, digits and `_` that",
        ),
        (GIT, 'run = [" "]', "14: states.diff.command.run[0]: is empty: name a program"),
        (GIT, 'run = ["git diff"]', 'write each argument as a text of its own, ["git", "diff"]'),
        (GIT, 'run = ["./verify now"]', 'write each argument as a text of its own, ["./verify", "now"]'),
        (GIT, 'run = ["./verify -q a/b"]', 'write each argument as a text of its own, ["./verify", "-q", "a/b"]'),
        (GIT, r'run = ["git", "a\u0000b"]', "14: states.diff.command.run[1]: contains a NUL character"),
        ('assigns = "decision"', 'assigns = "params"', 'states.ask.assigns: no value can have the name "params"'),
        *(
            (DATA, f"data = {data}", f"6: result.data: {expected}")
            for data, expected in (
                ('"${diff.stdout}"', '"${diff.stdout}" is a text; it must be an object, such as {'),
                ('"${diff.exit_code}"', '"${diff.exit_code}" is an integer; it must be an object'),
                ('"${review.data.tasks}"', '"${review.data.tasks}" is a list; it must be an object'),
                ('"a text"', '"a text" is a text; it must be an object'),
                ('["${work.result}"]', "is of the type list; it must be an object"),
                ("3", "is of the type integer; it must be an object"),
            )
        ),
        # Names.
        ('name = "author-and-reviewer"', 'name = "author"', "1: name: the file must be author.toml, or the name"),
        ('initial = "write"', 'initial = "wriet"', '3: initial: "wriet" is not a state (did you mean "write"?)'),
        (
            'on_done = "diff"',
            'on_done = "dif"',
            '11: states.write.on_done: "dif" is not a state (did you mean "diff"?)',
        ),
        ('{ to = "revise" }', '{ to = "rewise" }', '27: states.review.on_done[1].to: "rewise" is not a state (did you'),
        ('on_interrupted = "repeat"', 'on_interrupted = "repaet"', '(did you mean "repeat"?)'),
        ('on_denied = "rejected"', 'on_denied = "failed"', "42: states.rejected: cannot be reached from the initial"),
        ('    { to = "revise" },\n', "", "26: states.review.on_done[0]: the last branch must have no `when`"),
        ("when = \"review.data.verdict == 'accept'\", ", "", "26: states.review.on_done[0]: needs `when`"),
        ("default = 3", 'default = "3"', "4: params.tries.default: must be of the type integer"),
        ('"review.schema.json"', '{ type = "objekt" }', "21: states.review.schema: is not a JSON Schema"),
        (
            '"review.schema.json"',
            '{ verdict = "string" }',
            "has no keyword of JSON Schema, so every value would match it",
        ),
        # References and types.
        ("${diff.stdout}", "${stdout}", 'there is no value "stdout" (did you mean "diff.stdout"?)'),
        ("${diff.stdout}", "${states.diff.stdout}", 'there is no value "states" (did you mean "diff.stdout"?)'),
        ("Task: ${params.task}", "${run.task}", 'there are id, session_id, project_dir (did you mean "params.task"?)'),
        ("${diff.stdout}", "${dif.stdout}", '${dif.stdout}: there is no value "dif" (did you mean "diff"?)'),
        ("${diff.stdout}", "${diff.stdot}", 'diff has no field "stdot" (did you mean "stdout"?)'),
        ("Task: ${params.task}", "${params.taks}", 'params has no field "taks" (did you mean "task"?); declare it in'),
        (
            "changes: ${review.data.comments}",
            "${review.data.note}",
            "review.data.note is optional: add it to `required`",
        ),
        ("${diff.stdout}", "${diff.data.x}", "diff has `data` if its state has a `schema`"),
        ("${diff.stdout}", "${diff.stdout", '"${" has no "}" behind it'),
        ("${diff.stdout}", "${item}", "item only exists in the arguments of an agent with `each`"),
        ('name = "reviewer",', 'name = "reviewer", each = "${diff.stdout}",', "is a text; it must be a list, such as"),
        (
            'name = "reviewer",',
            'name = "reviewer", each = ["a", "${diff.stdot}"],',
            'agent.each[1]: ${diff.stdot}: diff has no field "stdot"',
        ),
        (
            AGENT,
            'agent = { name = "r", each = [{ a = "x" }], parameters = { p = "${item.b}" } }',
            'agent.parameters.p: ${item.b}: item has no field "b"',
        ),
        (
            AGENT,
            'agent = { name = "r", each = ["a", "b"], parameters = { p = "${item.b}" } }',
            "agent.parameters.p: ${item.b}: item is a text",
        ),
        ('name = "reviewer",', 'name = "reviewer", each = 5,', "agent.each: must be a text or a list, not 5"),
        ('name = "reviewer",', 'name = "r", project_dir = "${diff.exit_code}",', "is an integer; it must be a text"),
        ("verdict == 'accept'", "verdit == 'accept'", 'on_done[0].when: column 13: review.data has no field "verdit"'),
        ("review.data.verdict == 'accept'", "diff.data.ok", "stderr; diff has `data` if its state has a `schema`"),
        ("review.data.verdict == 'accept'", "${review.ok}", "column 1: a guard names its values without ${…}"),
        (
            "verdict == 'accept'",
            "verdict == 1",
            "26: states.review.on_done[0].when: column 21: == cannot be applied to",
        ),
        # Assigned on every path.
        (
            "${diff.stdout}",
            "${review.data.comments}",
            "20: states.review.agent.parameters.prompt: review.data does not exist on the path write → diff → review: "
            "only review can assign it",
        ),
        (
            'on_interrupted = "repeat"\n',
            'on_error = "revise"\n',
            "31: states.revise.turn.prompt: review.data does not exist on the path write → diff (on_error) → revise",
        ),
        (
            'on_exhausted = "ask"\n',
            'on_exhausted = "ask"\non_error = "ask"\n',
            "review.data does not exist on the path write → diff → review (on_error) → ask: after on_error of review, "
            "review only has error, ok, result, session_id; lead on_error elsewhere",
        ),
        (
            "{ when = \"review.data.verdict == 'accept'\"",
            '{ when = "decision.ok"',
            "26: states.review.on_done[0].when: decision.ok does not exist on the path write → diff → review",
        ),
        (
            '{ to = "revise" }',
            '{ to = "completed" }',
            "6: result.data.by: decision.by does not exist on the path write →",
        ),
        (
            'on_exhausted = "ask"\n',
            'on_exhausted = "ask"\non_error = [{ when = "review.data.verdict != \'\'", to = "ask" }, { to = "ask" }]\n',
            "after on_error of review, review only has error, ok, result, session_id; name one of these",
        ),
        # Termination.
        ("max_wall_s = 108000, ", "", "8: states.write: has no time limit: give it `timeout_s`, or the whole workflow"),
        (
            'max_visits = 3\non_exhausted = "ask"\n',
            "",
            "13: states.diff: may never end: diff → review → revise → diff: give diff `max_visits`",
        ),
        (
            'on_denied = "rejected"',
            'on_denied = "revise"',
            "may never end: diff → review (on_exhausted) → ask (on_denied) → revise → diff, and the visits of review "
            "that are used up do not stop it: give diff `max_visits`",
        ),
        (
            'on_exhausted = "ask"',
            'on_exhausted = "review"',
            "24: states.review.on_exhausted: may never end: review (on_ex",
        ),
    ],
)
def test_each_mistake_has_a_finding(folder: Path, old: str, new: str, expected: str) -> None:
    assert old in SOUND
    found = findings(folder, SOUND.replace(old, new, 1))
    assert any(expected in finding for finding in found), found


V = "${params.task}"


@pytest.mark.parametrize(
    "run",
    [
        ["sh", "-ec", f"echo {V}"],
        ["bash", "-o", "pipefail", "-c", V],
        ["bash", "-euo", "pipefail", "-c", V],
        ["bash", "-c", "-o", "pipefail", V],
        ["bash", "-o", V],
        ["bash", "--norc", "-c", V],
        ["bash", "--rcfile", "file", "-c", V],
        ["bash", V],
        ["bash", f"--rcfile={V}"],
        ["fish", "-c", V],
        ["fish", "-c", "true", "-c", V],
        ["fish", "-c", "true", "-C", V],
        ["find", ".", "-exec", V, ";"],
        ["/usr/bin/env", "bash", "-c", f"echo {V}"],
        ["env", "A=1", "bash", "-c", V],
        ["env", V],
        ["env", "-S", V],
        ["env", f"-S{V}"],
        ["env", "-u", "A", V],
        ["timeout", "5", V],
        ["timeout", "-k", "1", "5", V],
        ["timeout", "5", "sh", "-o", "errexit", "-c", V],
        ["timeout", "-v", "5", "sh", "-c", V],
        ["nice", "-n", "5", "bash", "-c", V],
        ["sudo", "sh", "-c", V],
        ["sudo", "-u", "root", V],
        ["sudo", "nice", "sh", "-c", V],
        ["busybox", "sh", "-c", V],
        ["xargs", V],
        ["xargs", "-n", "1", "sh", "-c", V],
        ["docker", "run", "image", "sh", "-c", V],
        ["kubectl", "exec", "pod", "--", "sh", "-c", V],
        ["find", ".", "-exec", "sh", "-c", V, ";"],
        ["python3.12", "-O", "-c", V],
        ["python3", f"-cprint({V})"],
        ["python3", V],
        ["python3", "-m", V],
        ["node", "--eval", V],
        ["node", f"--eval={V}"],
        ["deno", "eval", V],
        ["pwsh", "-Command", V],
        ["lua5.4", "-e", V],
        ["lua", "-l", "module", "-e", V],
        ["perl", "-e", "1", "-e", V],
        ["perl", "-ne", V],
        ["ruby", "-rjson", "-e", V],
        ["php", "-r", V],
        ["awk", V],
        ["sed", "-e", V],
        ["su", "-c", V],
        ["su", "user", "-c", "true", V],
        ["ssh", "host", "ls", V],
        ["bash", "-c", "-", V],
        ["perl", "-e", "-", "-e", V],
        ["awk", "-f-", "-f", V],
        # What follows the name of a program, and its folder.
        ["bash-5.2", "-c", V],
        ["python3.11-dbg", "-c", V],
        ["python3.13t", "-c", V],
        ["/bin/busybox.static", "sh", "-c", V],
        ["/usr/bin/bash-static", "-c", V],
        ["./tools/bash-5.2", "-c", V],
        ["sudo-rs", "sh", "-c", V],
        # Where a program may be.
        ["npx", "-c", V],
        ["npx", "--call", V],
        ["npx", V],
        ["uv", "run", V],
        ["uv", "run", "--with", "a", "python", "-c", V],
        ["kubectl", "exec", "pod", "--", V],
        ["docker", "run", "--rm", "-e", "A=1", "image", "sh", "-c", V],
        ["docker", "compose", "exec", "-T", "service", "bash", "-c", V],
        ["docker", "run", "registry/python:3.12-slim", "-c", V],
        ["docker", "run", "--rm", "node:22", "-e", V],
        ["find", ".", "-name", "x", "-exec", "env", "sh", "-c", V, ";"],
        ["find", ".", "-exec", "true", ";", "-exec", "sh", "-c", V, ";"],
        # Variables.
        ["env", f"BASH_ENV={V}", "bash", "tool.sh"],
        ["env", f"ENV={V}", "sh", "tool.sh"],
        ["env", f"PYTHONSTARTUP={V}", "tool"],
        ["env", f"PERL5OPT=-M{V}", "tool"],
        ["env", f"PATH=/bin:{V}", "tool"],
        ["env", "A=1", f"NODE_OPTIONS={V}", "tool"],
        ["sudo", f"RUBYOPT={V}", "tool"],
        ["nice", "env", f"LD_PRELOAD={V}", "tool"],
        ["docker", "run", "-e", f"LD_PRELOAD={V}", "image"],
        ["docker", "run", f"-eBASH_ENV={V}", "image"],
        ["docker", "run", f"--env=GIT_SSH_COMMAND={V}", "image"],
    ],
    ids=" ".join,
)
def test_no_program_executes_a_value_among_its_arguments(folder: Path, run: list[str]) -> None:
    found = findings(folder, SOUND.replace(GIT, f"run = {json.dumps(run)}"))
    assert len(found) == 1
    assert "could execute the value" in found[0]
    number = next(index for index, argument in enumerate(run) if V in argument)
    assert f"states.diff.command.run[{number}]" in found[0]


@pytest.mark.parametrize(
    "run",
    [
        ["bash"],
        ["bash", "-s"],
        ["bash", "-s", "x"],
        ["bash", "-x"],
        ["env", "sh"],
        ["sudo", "-s"],
        ["xargs", "sh", "-c"],
        ["xargs", "-I{}", "sh", "-c", "echo {}"],
        ["python3"],
        ["python3", "-"],
        ["python3", "-i", "file.py"],
        ["node", "-"],
        ["perl", "-w"],
        ["ssh", "host"],
        ["su", "user"],
        ["sh", "/dev/stdin"],
        ["sh", "/proc/self/fd/0", "x"],
        ["bash", "-x", "/dev//stdin"],
        ["sh", "-"],
        ["env", "python3", "/dev/fd/0"],
        ["node", "-r", "/dev/stdin", "tool.js"],
        ["awk", "-f", "-"],
        ["awk", "-f-", "file"],
        ["awk", "-f", "tool.awk", "-f-"],
        ["gawk", "--file=/dev/stdin"],
        ["sed", "-f", "-"],
        ["sed", "-nf/dev/stdin", "file"],
        ["sed", "--file=-"],
        ["uv", "run", "-"],
        ["docker", "exec", "-i", "container", "sh", "/dev/stdin"],
    ],
    ids=" ".join,
)
def test_no_program_executes_a_value_in_its_input(folder: Path, run: list[str]) -> None:
    found = findings(folder, SOUND.replace(GIT, f'run = {json.dumps(run)}, stdin = "{V}"'))
    assert len(found) == 1
    assert "states.diff.command.stdin" in found[0]
    assert "could execute the value" in found[0]


@pytest.mark.parametrize(
    "run",
    [
        ["sh", "-c", "echo $1", "sh", V],
        ["bash", "-euo", "pipefail", "-c", "echo $1", "sh", V],
        ["bash", "-x", "check.sh", "-c", V],
        ["env", "A=1", f"B={V}", "git", "log", V],
        ["env", "-i", "--", "git", V],
        ["timeout", "5", "git", "log", V],
        ["timeout", "-k", "1", "5", "sh", "-c", "echo $1", "sh", V],
        ["nice", "-n", "5", "git", "log", V],
        ["sudo", "-u", "root", "grep", "-e", "perl", "-e", V],
        ["python3", "-m", "tool", "-c", V],
        ["python3", "-X", "dev", "tool.py", V],
        ["python3", "-c", "import sys", V],
        ["perl", "-e", "print @ARGV", V],
        ["node", "tool.js", "--eval", V],
        ["awk", "{ print }", V],
        ["grep", "-e", "perl", "-e", V],
        ["kubectl", "get", "node", V],
        ["ls", "bash", V],
        ["awk", "-f", "tool.awk", "-", V],
        ["sh", "tool.sh", "/dev/stdin", V],
        ["sed", "-n", "s/a/b/p"],
        ["env", f"NODE_ENV={V}", f"GIT_AUTHOR_NAME={V}", "git", "log"],
        ["./script.sh", V],
        ["bin/time-tests", V],
        ["docker", "tag", "node", V],
        ["docker", "pull", f"python:{V}"],
        ["docker", "exec", "watch-1", "ls", V],
        ["docker", "run", "-e", f"A={V}", f"--volume={V}:/work", "ruby-app", V],
        ["docker", "run", "image", "tool", "--lang", "python", V],
        ["docker", "exec", "-i", "container", "cat", "-"],
        ["find", "python", "-name", V],
        ["find", V, "-name", "sh", "-exec", "grep", "-e", "python", V, ";"],
        ["uv", "pip", "show", "python", V],
        ["uv", "--directory", V, "run", "tool", V],
        ["poetry", "run", "pytest", "-k", "node", V],
        ["npx", "-p", "prettier", "prettier", V],
        ["npx", "--yes", "--", "prettier", V],
        ["kubectl", "exec", V, "--", "ls", V],
    ],
    ids=" ".join,
)
def test_values_may_be_behind_a_literal_script_or_program(folder: Path, run: list[str]) -> None:
    assert findings(folder, SOUND.replace(GIT, f'run = {json.dumps(run)}, stdin = "{V}"')) == []


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            'on_done = "review"\n',
            "",
            ['13: states.diff: needs `on_done`, the next state, such as on_done = "completed"'],
        ),
        ('on_denied = "rejected"\n', "", ["36: states.ask.approval: needs `on_denied` in its state"]),
        ("final = true\n", "", ["42: states.rejected: needs `final = true`, because it has `outcome` and `error`"]),
        (
            'assigns = "decision"\n',
            'assigns = "params"\n',
            ['37: states.ask.assigns: no value can have the name "params", which means something else: choose another'],
        ),
    ],
)
def test_one_mistake_has_one_finding(folder: Path, old: str, new: str, expected: list[str]) -> None:
    assert [it for it in findings(folder, SOUND.replace(old, new, 1)) if "decision" not in it] == expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (GIT, 'run = ["git", "log", "--author=${params.task}", "${params.task}"]'),
        (GIT, 'run = ["echo", "$${not.a.value}"]'),
        (GIT, 'run = ["/opt/My Tools/verify"]'),
        (DATA, 'data = "${review.data}"'),
        (DATA, 'data = { all = ["${work.result}"] }'),
        (
            AGENT,
            'agent = { name = "r", each = "${params.list}", at_once = 2, parameters = { p = "${item} ${index}" } }',
        ),
        (AGENT, 'agent = { name = "r", each = ["a", "${params.task}", 3], parameters = { p = "${item} ${index}" } }'),
        (AGENT, 'agent = { name = "r", each = [{ a = "${params.task}" }], parameters = { p = "${item.a}" } }'),
        (
            'on_done = "diff"\n\n[states.diff]',
            'on_done = "pause"\n[states.pause]\nwait = { until = "2026-03-01T09:00:00+01:00" }\n'
            'on_done = "diff"\n[states.diff]',
        ),
    ],
)
def test_what_is_also_sound(folder: Path, old: str, new: str) -> None:
    assert old in SOUND
    text = SOUND.replace(old, new, 1).replace("params = {", 'params = { list = "list",')
    assert [it for it in findings(folder, text) if ".data" not in it and '"data"' not in it] == []


def test_a_state_that_only_a_second_visit_can_exhaust(folder: Path) -> None:
    """On the first way into `review`, it cannot be exhausted, so `revise` has always assigned its value then."""
    text = SOUND.replace('assigns = "work"\non_done = "diff"\n\n[states.ask]', 'on_done = "diff"\n\n[states.ask]')
    text = text.replace('"diff"\n\n[states.diff]', '"review"\n\n[states.diff]').replace("Diff: ${diff.stdout}", "")
    text = text.replace("Merge?", "Merge? ${revise.result}").replace('"ask" },', '"completed" },')
    text = text.replace(', data = { by = "${decision.by}", comment = "${decision.comment}" }', "")
    assert findings(folder, text) == []


def test_a_value_that_another_state_replaces_is_not_proven_by_exhaustion(folder: Path) -> None:
    text = SOUND.replace("[states.diff]\n", '[states.diff]\nassigns = "review"\n').replace(
        "diff.stdout", "review.stdout"
    )
    assert [it for it in findings(folder, text) if "states.ask" in it] == [
        "37: states.ask.approval.question: review.data does not exist on the path write → diff → review → revise → "
        "diff → review (on_exhausted) → ask: after on_done of diff, review only has error, exit_code, ok, stderr, "
        "stdout; let diff assign another name"
    ]


def test_the_findings_of_a_hostile_file_take_bounded_time(folder: Path) -> None:
    states = "".join(
        f'[states.s{number}]\nturn = {{ prompt = "${{s{(number * 7) % 100}.result}}" }}\nmax_visits = 2\n'
        f'on_exhausted = "s{(number * 3 + 1) % 100}"\non_error = "s{(number * 5 + 2) % 100}"\non_done = ['
        + ", ".join(f'{{ when = "s{number}.ok", to = "s{(number * other) % 100}" }}' for other in range(1, 8))
        + ', { to = "completed" }]\n'
        for number in range(100)
    )
    start = time.process_time()
    found = findings(folder, f'name = "author-and-reviewer"\ninitial = "s0"\n{states}')
    assert len(found) > 75
    assert time.process_time() - start < 30


def test_a_file_with_too_many_states_is_refused(folder: Path) -> None:
    states = "".join(f'[states.s{number}]\non_done = "completed"\n' for number in range(501))
    assert findings(folder, f'name = "author-and-reviewer"\ninitial = "s0"\n{states}') == [
        "3: states: has 501 states, more than 500: let it start agents that have a workflow of their own"
    ]
