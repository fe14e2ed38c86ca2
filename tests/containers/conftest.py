"""Images that all tests here share."""

import fcntl

import pytest

from tests.support.containers import build_images


@pytest.fixture(scope="session", autouse=True)
def images(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> None:
    """Built once for all workers of a test run: what is cached takes its seconds too."""
    own = tmp_path_factory.getbasetemp()
    shared = own if worker_id == "master" else own.parent
    with (shared / "images-built").open("a+") as built:
        fcntl.flock(built, fcntl.LOCK_EX)
        built.seek(0)
        if not built.read():
            build_images()
            built.write("yes")
