"""The runner's gateway, with somebody who looks at what passes through its doors."""

from fsm_runner.conformance.exchange import Listener, RecordingApp
from fsm_runner.coordinator_client.api import CoordinatorApi
from fsm_runner.executors.interface import SessionEndpoint
from fsm_runner.gateway.server import Gateway
from fsm_runner.reporting.session_channel import SessionChannel


class RecordedGateway(Gateway):
    def __init__(self, api: CoordinatorApi) -> None:
        self._listeners: dict[str, Listener] = {}
        super().__init__(api, wrap=lambda app: RecordingApp(app, self._listeners))

    def open_recorded(self, session_id: str, channel: SessionChannel, listener: Listener) -> SessionEndpoint:
        endpoint = self.open(session_id, channel)
        self._listeners[_token(endpoint)] = listener
        return endpoint

    def close_recorded(self, endpoint: SessionEndpoint) -> None:
        endpoint.close()
        self._listeners.pop(_token(endpoint), None)


def _token(endpoint: SessionEndpoint) -> str:
    return endpoint.url.rsplit("/", 1)[-1]
