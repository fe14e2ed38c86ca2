"""The places of specs, profiles, executors and workflows."""

from pathlib import Path

import pytest

from fsm_runner.config.paths import HOME_VARIABLE, bundled, find, find_all, homes


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(HOME_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_bundled_files_have_specs_profiles_executors_and_workflows() -> None:
    for folder in ("specs", "profiles", "executors", "workflows"):
        assert (bundled() / folder).is_dir()


def test_a_working_directory_with_profiles_is_a_home(elsewhere: Path) -> None:
    assert homes() == (bundled(),)
    (elsewhere / "profiles").mkdir()
    assert homes() == (elsewhere, bundled())


def test_a_checkout_is_one_home_not_two(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundled())
    assert homes() == (bundled(),)


def test_a_configured_home_is_the_only_one_and_absolute(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (elsewhere / "profiles").mkdir()
    monkeypatch.setenv(HOME_VARIABLE, "image")
    assert homes() == (elsewhere / "image",)


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(HOME_VARIABLE, "")
    assert homes() == (bundled(),)


def test_a_deleted_working_directory_is_not_a_home(elsewhere: Path) -> None:
    gone = elsewhere / "gone"
    gone.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(gone)
        gone.rmdir()
        assert homes() == (bundled(),)


def test_a_home_s_own_spec_hides_the_bundled_one_and_leaves_the_others(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(elsewhere))
    assert find("specs/run.toml") == bundled() / "specs" / "run.toml"
    (elsewhere / "specs").mkdir()
    (elsewhere / "specs" / "._zoo.toml").touch()
    for name in ("run.toml", "zoo.toml"):
        (elsewhere / "specs" / name).touch()
    assert find("specs/run.toml") == elsewhere / "specs" / "run.toml"
    assert find_all("specs/*.toml") == {
        "specs/poller.toml": bundled() / "specs" / "poller.toml",
        "specs/run.toml": elsewhere / "specs" / "run.toml",
        "specs/runner.toml": bundled() / "specs" / "runner.toml",
        "specs/session.toml": bundled() / "specs" / "session.toml",
        "specs/zoo.toml": elsewhere / "specs" / "zoo.toml",
    }
