"""A client of HTTP/1.1 that costs a benchmark less than the server costs: one request at a time on one connection."""

import asyncio
from typing import Any
from urllib.parse import urlsplit

import msgspec


class Connection:
    """Use `open` to create one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, url: str) -> "Connection":
        parts = urlsplit(url)
        return cls(*await asyncio.open_connection(parts.hostname, parts.port))

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the decoded response; None if it has no body. Raises AssertionError for a status from 300."""
        content = b"" if body is None else msgspec.json.encode(body)
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: {len(content)}\r\n\r\n"
        self._writer.write(head.encode() + content)
        status_line, *headers = (await self._reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        length = next((int(line[15:]) for line in headers if line.startswith(b"content-length:")), 0)
        answer = await self._reader.readexactly(length)
        assert status_line.split()[1] < b"300", (method, path, status_line, answer)
        return msgspec.json.decode(answer) if answer else None

    async def aclose(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def register(connection: Connection, hostname: str, profile: str, **fields: Any) -> str:
    """Register a runner, and return its id."""
    body = {
        "hostname": hostname,
        "project_dir": "/work",
        "executor_profile": profile,
        "executor": {"type": "autonomous", "command": "executors/none"},
        **fields,
    }
    registered = await connection.call("POST", "/runner/register", body)
    runner_id: str = registered["runner_id"]
    return runner_id
