"""The SDK's client, with what its own messages leave out."""

from __future__ import annotations

from collections.abc import AsyncIterator

from claude_agent_sdk import ClaudeSDKClient, CLIConnectionError, ResultMessage
from claude_agent_sdk._internal.message_parser import parse_message  # the SDK is pinned to one version
from claude_agent_sdk.types import Message


class Client(ClaudeSDKClient):
    """`model_usage` of a result is what has been used since the result before.

    The SDK gives the totals of the conversation there. They go on when a conversation is resumed in another process,
    which cannot know where they began.
    """

    async def receive_messages(self) -> AsyncIterator[Message]:
        if self._query is None:
            raise CLIConnectionError("Not connected")
        async for data in self._query.receive_messages():
            message = parse_message(data)
            if isinstance(message, ResultMessage):
                message.model_usage = data.get("model_usage_since_last_result")
            if message is not None:
                yield message
