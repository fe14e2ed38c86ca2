"""Runners that hold a poll each and may claim nothing, in a process of their own.

    python -m benchmarks.idle_runners URL COUNT

Prints a line when all are registered.
"""

import asyncio
import sys

from benchmarks.plain_http import Connection, register


async def poll_forever(url: str, number: int, are_registered: asyncio.Barrier) -> None:
    connection = await Connection.open(url)
    runner_id = await register(connection, f"idle-{number}", "idle")
    await are_registered.wait()
    while True:
        await connection.call("GET", f"/runner/runs?runner_id={runner_id}")


async def main() -> None:
    url, count = sys.argv[1], int(sys.argv[2])
    are_registered = asyncio.Barrier(count + 1)
    async with asyncio.TaskGroup() as runners:
        for number in range(count):
            runners.create_task(poll_forever(url, number, are_registered))
        await are_registered.wait()
        print("ready", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
