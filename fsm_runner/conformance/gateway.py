"""The runner's gateway, with somebody who looks at what passes through its doors."""

from fsm_runner.conformance.exchange import Listener, RecordingApp
from fsm_runner.coordinator.api import CoordinatorApi
from fsm_runner.executors.port import Door, SessionChannel
from fsm_runner.gateway.gateway import Gateway


class RecordedGateway(Gateway):
    def __init__(self, api: CoordinatorApi) -> None:
        self._listeners: dict[str, Listener] = {}
        super().__init__(api, wrap=lambda app: RecordingApp(app, self._listeners))

    def open_recorded(self, session_id: str, channel: SessionChannel, listener: Listener) -> Door:
        door = self.open(session_id, channel)
        self._listeners[_token(door)] = listener
        return door

    def close_recorded(self, door: Door) -> None:
        door.close()
        self._listeners.pop(_token(door), None)


def _token(door: Door) -> str:
    return door.url.rsplit("/", 1)[-1]
