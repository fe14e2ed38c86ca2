"""The durable copies of queued messages."""

from typing import Protocol


class MessageStore(Protocol):
    """Keeps queued messages for the runner's next process. `Journal` is one."""

    def store_message(self, session_id: str, content: bytes) -> int | None:
        """Store a message and return its id; None if this store keeps nothing."""

    def delete_message(self, message_id: int) -> None: ...

    async def message(self, message_id: int) -> bytes:
        """Return the content. Raises `FsmRunnerError` if it cannot be read."""

    async def flush(self) -> None:
        """Return once all messages are on disk. Raises `FsmRunnerError` if the write fails."""


class NoMessageStore:
    """The `MessageStore` of a process without a journal."""

    def store_message(self, session_id: str, content: bytes) -> int | None:
        return None

    def delete_message(self, message_id: int) -> None:
        """Nothing is stored."""

    async def message(self, message_id: int) -> bytes:
        raise KeyError(message_id)

    async def flush(self) -> None:
        """Nothing is stored."""
