"""What the documents state, compared with what the program does."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from fsm_runner import errors
from fsm_runner.config.settings import SETTINGS, TOKEN_CHECK_SETTINGS, Setting
from fsm_runner.coordinator_client.policy import POLICIES
from fsm_runner.process.child.child import TERM_GRACE_S
from fsm_runner.runtime.actors.interfaces import load_machine
from fsm_runner.util.retry import RetryPolicy

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "docker" / "README.md"]
LINE_CHARS = 100
FILE_SUFFIXES = ("py", "toml", "md", "json", "yml", "sh", "lock", "svg")
USERS_FILES = {"profiles/shout.json", ".claude/settings.json", ".claude/settings.local.json"}
"""Files of the reader."""
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()


def rows(heading: str) -> Iterator[list[str]]:
    section = OPERATIONS.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    for line in section.splitlines():
        if line.startswith("|") and not set(line) <= set("|- "):
            yield [cell.strip() for cell in line.strip("|").split("|")]


def row_of(name: str, policy: RetryPolicy) -> list[str]:
    given_up = "never" if policy.limit_s is None else f"after {policy.limit_s:g} s"
    return [name, f"{policy.base_s:g} s", f"{policy.cap_s:g} s", given_up]


def test_the_table_of_retries_is_what_the_client_does() -> None:
    policies: dict[str, RetryPolicy] = msgspec.structs.asdict(POLICIES)
    assert list(rows("Retries"))[1:] == [row_of(name, policy) for name, policy in policies.items()]


def test_a_runner_departs_within_the_documented_stop_timeout_of_a_container() -> None:
    found = re.search(r"stop timeout to the grace period plus (\d+) s", OPERATIONS.replace("\n", " "))
    assert found is not None
    states = load_machine("runner").spec.states
    limits_s = [states[name].timeout_s for name in ("flushing_reports", "deregistering", "awaiting_last_poll")]
    assert TERM_GRACE_S + sum(float(limit_s or 0) for limit_s in limits_s) < float(found[1])


def test_the_tables_of_claude_code_are_what_its_files_say() -> None:
    document = (ROOT / "docs" / "claude-code.md").read_text()
    keys = json.loads((ROOT / "executors/claude-code/executor.json").read_text())["config_schema"]["properties"]
    command = "executors/claude-code/ao-claude-code-exec"
    found = {path.stem: json.loads(path.read_text()) for path in (ROOT / "profiles").glob("*.json")}
    profiles = {name: profile["config"]["model"] for name, profile in found.items() if profile["command"] == command}
    documented = [row.split("|")[1:3] for row in document.splitlines() if row.startswith("| `")]
    named = {name.strip(" `"): value.strip() for name, value in documented}
    assert profiles.items() <= named.items()
    assert keys.keys() <= named.keys()


def documented_settings() -> list[tuple[str, list[str], str]]:
    """The variable, flags and default of each row, also of rows with several variables."""
    return [
        (variable, re.findall("`([^`]+)`", flags), default.replace("`", ""))
        for variables, flags, default, _ in rows("Configuration")
        for variable in re.findall("`([^`]+)`", variables)
    ]


@pytest.mark.parametrize("setting", [*SETTINGS, *TOKEN_CHECK_SETTINGS], ids=lambda setting: setting.variable)
def test_a_setting_is_documented_as_it_is_declared(setting: Setting) -> None:
    assert (setting.variable, setting.flags, setting.default_text) in documented_settings()


def test_every_exit_code_is_documented() -> None:
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert {int(row[0]) for row in list(rows("Exit codes"))[1:]} == codes


def quoted_messages() -> Iterator[str]:
    """The parts of messages in docs/operations.md that have at least three words and no value that varies."""
    text = " ".join(re.sub("```.*?```", "", OPERATIONS, flags=re.DOTALL).split())
    quoted = [*re.findall(r'\*\*"([^"]+)"\*\*', text), *re.findall("`([^`]+)`", text)]
    parts = (part.strip(" ,:;") for message in quoted for part in re.split(r"…|[A-Z0-9_]{2,}|[0-9.]+", message))
    return (part for part in parts if re.search(r"([a-z]+ ){2}[a-z]+", part) and not part.startswith("fsm-runner "))


def test_the_messages_in_operations_are_those_of_the_program() -> None:
    texts = "\n".join(
        node.value
        for path in (ROOT / "fsm_runner").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    quoted = list(quoted_messages())
    assert "polls are cut after" in quoted
    assert [part for part in quoted if part not in texts] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", document.read_text()):
        assert (document.parent / target).exists(), target


def prose_of(document: Path) -> Iterator[str]:
    """The lines outside code blocks and generated sections."""
    text = re.sub(r"<!-- machine: .*?<!-- /machine -->", "", document.read_text(), flags=re.DOTALL)
    is_code = False
    for line in text.splitlines():
        if line.lstrip().startswith("```"):
            is_code = not is_code
        elif not is_code and not line.startswith("    "):
            yield line


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_named_files_are_there(document: Path) -> None:
    path = rf"`([\w.*-]+/[\w./*-]*\.(?:{'|'.join(FILE_SUFFIXES)}))`"
    named = {name for line in prose_of(document) for name in re.findall(path, line)} - USERS_FILES
    places = (ROOT, ROOT / "fsm_runner")
    assert [name for name in sorted(named) if not any(any(place.glob(name)) for place in places)] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_lines_are_short(document: Path) -> None:
    lines = (line for line in prose_of(document) if not line.startswith("|") and "://" not in line)
    assert [line for line in lines if len(line) > LINE_CHARS] == []


def test_the_tests_that_the_promises_name_are_there() -> None:
    document = (ROOT / "docs" / "security.md").read_text()
    named = set(re.findall(r"`(tests/[^`]+)`", document))
    assert named
    assert [name for name in sorted(named) if not list(ROOT.glob(name))] == []


def test_both_ignore_files_of_the_images_are_one() -> None:
    assert (ROOT / "docker" / ".dockerignore").samefile(ROOT / ".dockerignore")
