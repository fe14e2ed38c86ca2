"""Reading a workflow's file."""

from pathlib import Path

import pytest

from fsm_runner.config.workflows import find_workflow, workflow_paths
from fsm_runner.errors import UsageError
from fsm_runner.workflow.file import WorkflowError, load_workflow, read_workflow, restore_workflow

SOUND = """\
name = "flow"
initial = "work"
params = { task = "string" }
budget = { max_wall_s = 600 }

[states.work]
turn = { prompt = "${params.task}" }
schema = "work.json"
on_done = "completed"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "work.json").write_text('{"type": "object"}')
    path = tmp_path / "flow.toml"
    path.write_text(SOUND)
    return path


def defects(file: Path, old: str, new: str) -> list[str]:
    assert old in SOUND
    file.write_text(SOUND.replace(old, new, 1))
    found = read_workflow(file)
    with pytest.raises(WorkflowError):
        load_workflow(file)
    return [str(defect).removeprefix(f"{file}:") for defect in found.defects]


def test_a_sound_file_is_loaded_with_its_schemas_and_its_machine(file: Path) -> None:
    loaded = load_workflow(file)
    assert loaded.schemas == {"work": {"type": "object"}}
    assert loaded.spec.name == "flow"
    assert list(loaded.spec.states) == ["work", "completed", "failed"]
    assert loaded.text == SOUND
    assert load_workflow(file) is loaded
    restored = restore_workflow("flow.toml", loaded.text, loaded.schemas)
    assert (restored.definition, restored.schemas, restored.sha256) == (
        loaded.definition,
        loaded.schemas,
        loaded.sha256,
    )


def test_an_unchanged_file_is_not_checked_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_workflow(file)
    monkeypatch.setattr("fsm_runner.workflow.check.check", lambda _: pytest.fail("the file was checked again"))
    assert load_workflow(file, loaded) is loaded
    monkeypatch.undo()
    schema = file.with_name("work.json")
    schema.write_text('{"type": "string"}')
    assert load_workflow(file, loaded).schemas == {"work": {"type": "string"}}
    schema.unlink()
    with pytest.raises(WorkflowError, match=r"work\.json"):
        load_workflow(file, loaded)
    file.write_text(SOUND.replace('"work.json"', '{ type = "array" }'))
    assert load_workflow(file, loaded).schemas == {"work": {"type": "array"}}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("turn =", "trun =", '7: states.work.trun: unknown key (did you mean "turn"?)'),
        ('initial = "work"\n', "", "1: initial: is missing"),
        ("600", "0", "4: budget.max_wall_s: must be a number of seconds above 0, at most 315,360,000, not 0"),
        ("600", "inf", "4: budget.max_wall_s: must be a finite number, not inf"),
        ("600", "1" + "0" * 30, "4: budget.max_wall_s: must be a whole number of at most 64 bits"),
        (
            "[states.work]",
            '[states."two words"]',
            '6: states."two words": must be a name of letters, digits and `_` that begins with a letter or `_`, '
            'of at most 100 characters, not "two words"',
        ),
        ('"flow"', '"../flow"', None),
        ('"string"', '"text"', None),
        (
            'on_done = "completed"',
            'on_done = [\n  { when = "true", to = "work" },\n  { too = "completed" },\n]',
            '11: states.work.on_done[1].too: unknown key (did you mean "to"?)',
        ),
        ('turn = { prompt = "${params.task}" }', "command = { run = [] }", None),
        (
            '"work.json"',
            '"../work.json"',
            "8: states.work.schema: '../work.json' must be the path of a file in the folder of the workflow, "
            "or below it",
        ),
        ('"work.json"', '"gone.json"', None),
    ],
)
def test_each_deviation_has_a_line_and_a_place(file: Path, old: str, new: str, expected: str | None) -> None:
    found = defects(file, old, new)
    assert found
    if expected is not None:
        assert expected in found


def test_a_schema_that_cannot_be_used_is_a_defect_of_its_state(file: Path) -> None:
    for content, expected in ((b"{", "is not JSON: the JSON is incomplete"), (b"[]", "must contain a JSON Schema")):
        (file.parent / "work.json").write_bytes(content)
        (defect,) = read_workflow(file).defects
        assert str(defect).startswith(f"{file}:8: states.work.schema: ")
        assert expected in str(defect)


def test_a_time_of_toml_is_a_text(file: Path) -> None:
    file.write_text(SOUND.replace('prompt = "${params.task}"', "parameters = { at = 2026-03-01T09:00:00+01:00 }"))
    turn = load_workflow(file).definition.states["work"].turn
    assert turn is not None
    assert turn.parameters == {"at": "2026-03-01T09:00:00+01:00"}


def test_a_workflow_that_leads_nowhere_is_not_loaded(file: Path) -> None:
    for old, new, expected in (
        ('on_done = "completed"', 'on_done = "complete"', '9: states.work.on_done: "complete" is not a state (did you'),
        ('initial = "work"', 'initial = "word"', '2: initial: "word" is not a state (did you mean "work"?)'),
    ):
        file.write_text(SOUND.replace(old, new))
        with pytest.raises(WorkflowError) as caught:
            load_workflow(file)
        assert f"{file}:{expected}" in str(caught.value)


def test_a_text_of_the_journal_that_cannot_be_decoded_is_a_workflow_error() -> None:
    for text in ("x", 'name = "flow"', "x = nan"):
        with pytest.raises(WorkflowError, match=r"^flow\.toml:1: "):
            restore_workflow("flow.toml", text, {})


def test_workflows_are_found_in_the_first_home_by_names_that_are_no_paths(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "workflows").mkdir()
    for name in ("flow.toml", "flow.scenarios.toml", ".hidden.toml", "two words.toml"):
        (tmp_path / "workflows" / name).write_text(SOUND)
    monkeypatch.setenv("FSM_RUNNER_HOME", str(tmp_path))
    assert workflow_paths() == {"flow": tmp_path / "workflows" / "flow.toml"}
    assert find_workflow("flow") == tmp_path / "workflows" / "flow.toml"
    for name in ("../workflows/flow", "flow.toml", "", "gone", "/etc/passwd", "flow\n"):
        with pytest.raises(UsageError, match=r"there are: flow \(in "):
            find_workflow(name)
