"""Images that all tests here share."""

import fcntl

import pytest

from tests.support.containers import DOCKER, IMAGES, build


@pytest.fixture(scope="session", autouse=True)
def images(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> None:
    """As stages of one file, built once for all workers of a test run: what is cached takes its seconds too."""
    own = tmp_path_factory.getbasetemp()
    shared = own if worker_id == "master" else own.parent
    with (shared / "images-built").open("a+") as built:
        fcntl.flock(built, fcntl.LOCK_EX)
        built.seek(0)
        done = built.read().split()
        for image in IMAGES:
            if image not in done:
                build(image, DOCKER / "Dockerfile", "--target", image.removeprefix("agent-runner-"))
                print(image, file=built, flush=True)
