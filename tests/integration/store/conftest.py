"""Each test in this folder runs with each implementation of `Store`, unless it is about one of them."""

from collections.abc import AsyncIterator

import pytest

from fsm_runner.coordinator_server.store.sqlite.store import SqliteStore
from tests.support.stores import IMPLEMENTATIONS, OpenStore, StoreUser, opened

COUNTS = """
SELECT class_id, ready, claimed, running,
    (SELECT count(*) FROM runs WHERE class_id = c.class_id AND status = 'pending' AND waits_until_s IS NULL),
    (SELECT count(*) FROM runs WHERE class_id = c.class_id AND status = 'claimed'),
    (SELECT count(*) FROM runs WHERE class_id = c.class_id AND status IN ('running', 'stopping'))
FROM classes AS c
"""


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
def open_store(request: pytest.FixtureRequest) -> OpenStore:
    return IMPLEMENTATIONS[request.param]


@pytest.fixture
async def user(open_store: OpenStore) -> AsyncIterator[StoreUser]:
    async with opened(open_store) as opened_user:
        yield opened_user
        if isinstance(opened_user.store, SqliteStore):
            check_counts(opened_user.store)


def check_counts(store: SqliteStore) -> None:
    """Check that the triggers have counted every change and deleted what is not used, whatever the test has done."""
    assert store._worker._tables is not None
    database = store._worker._tables.database
    for class_id, *counted in map(tuple, database.execute(COUNTS)):
        assert counted[:3] == counted[3:], class_id
    for unused in (
        "requests WHERE seq NOT IN (SELECT seq FROM runs)",
        "classes WHERE class_id NOT IN (SELECT class_id FROM runs)",
    ):
        assert database.execute(f"SELECT count(*) FROM {unused}").fetchone()[0] == 0, unused
