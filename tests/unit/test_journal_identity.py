from pathlib import Path

import msgspec
import pytest

from fsm_runner.journal.identity import RunnerIdentity, journal_folder

HERE = RunnerIdentity(
    hostname="host",
    project_dir="/project",
    executor_profile="echo",
    executor_command="executors/echo",
    coordinator_url="http://localhost:8765",
)


def test_a_key_stays_the_same_from_one_version_to_the_next() -> None:
    assert HERE.key == "5b03d440c165cbb5"


@pytest.mark.parametrize("field", RunnerIdentity.__struct_fields__)
def test_each_part_makes_another_identity(field: str) -> None:
    assert msgspec.structs.replace(HERE, **{field: "other"}).key != HERE.key


def test_parts_do_not_run_into_each_other() -> None:
    one = msgspec.structs.replace(HERE, hostname="ab", project_dir="c")
    assert one.key != msgspec.structs.replace(HERE, hostname="a", project_dir="bc").key


def test_a_directory_whose_name_is_no_text_has_a_key() -> None:
    assert len(msgspec.structs.replace(HERE, project_dir="/\udcff").key) == 16


def test_each_identity_has_a_folder_of_its_own() -> None:
    assert journal_folder(Path("/state"), HERE) == Path("/state") / HERE.key
