"""The messages of calls that fail because of how they are set up."""

import pytest

from fsm_runner.config.settings import TokenRequest
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.coordinator_client.errors import CoordinatorError
from fsm_runner.coordinator_client.token_service import TokenService

LOGIN = TokenRequest(client_id="c", client_secret="s", audience="a")


async def faults_of(url: str) -> list[str]:
    """The message of a call to a coordinator at this URL, and that of one to a token service."""
    said = []
    async with CoordinatorApi(url) as api:
        with pytest.raises(CoordinatorError) as raised:
            await api.health()
        said.append(str(raised.value))
    with pytest.raises(CoordinatorError) as raised:
        await TokenService(f"{url}/oauth/token", LOGIN).new_token()
    return [*said, str(raised.value)]
