"""What has changed, collected by the store for the event streams."""

import msgspec

from fsm_runner.protocol.wire import JsonObject


class Notice(msgspec.Struct, frozen=True):
    kind: str
    data: JsonObject
    """Always with `session_id`."""


class ChangeEvents:
    """Filled by the store's operations in its thread; taken when an operation is through."""

    def __init__(self) -> None:
        self._collected: list[Notice] = []

    def add(self, kind: str, data: JsonObject) -> None:
        self._collected.append(Notice(kind, data))

    def take(self) -> list[Notice]:
        taken, self._collected = self._collected, []
        return taken
