"""Images that all tests here share."""

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containers import MUST_WORK, STARTED, build_images, container_names, why_unusable

BUILT = "built"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.container)
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session", autouse=True)
def images(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> None:
    """Built once for all workers of a test run, since even cached builds take seconds.

    Where no container can be run, the tests are skipped, but not in CI.
    """
    own = tmp_path_factory.getbasetemp()
    shared = own if worker_id == "master" else own.parent
    with (shared / "images-built").open("a+") as built:
        fcntl.flock(built, fcntl.LOCK_EX)
        built.seek(0)
        if not (outcome := built.read()):
            outcome = why_unusable() or BUILT
            if outcome == BUILT:
                build_images()
            built.write(outcome)
    if outcome != BUILT:
        assert not MUST_WORK, outcome
        pytest.skip(outcome)


@pytest.fixture(scope="module", autouse=True)
def nothing_left(images: None) -> Iterator[None]:
    """Fail the last test of a module that leaves a container. Other modules may run containers meanwhile."""
    STARTED.clear()
    yield
    left = sorted(name for name in container_names() if name.startswith(tuple(STARTED)))
    assert not left, f"containers are left: {left}"
