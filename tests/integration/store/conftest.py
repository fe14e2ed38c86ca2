"""Each test in this folder runs with each implementation of `Store`, unless it is about one of them."""

from collections.abc import AsyncIterator

import pytest

from tests.support.stores import IMPLEMENTATIONS, StoreUser, opened


@pytest.fixture(params=sorted(IMPLEMENTATIONS))
async def user(request: pytest.FixtureRequest) -> AsyncIterator[StoreUser]:
    async with opened(IMPLEMENTATIONS[request.param]) as opened_user:
        yield opened_user
