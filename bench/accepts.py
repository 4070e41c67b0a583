"""How long an edge takes to accept somebody new: a WebSocket handshake every 20 ms, from a process of its own.

`Accepts(edge)` runs this file as a program, which prints a line an attempt: when it was due (time.monotonic(), which is
one clock for the whole machine), and after how many milliseconds it had the answer 101, or `-` if it never had.
Attempts begin when they are due, however long those before them take.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import time

EVERY_SECONDS = 0.02
PATIENCE_SECONDS = 10
NICENESS = -10  # where that is allowed: its own wait for a processor is not what is asked for
REQUEST = ("GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\n"
           "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")


class Accepts:
    """`with Accepts(edge) as accepts:` has it running; then `accepts.attempts` is a list of (when, ms or None)."""

    def __init__(self, edge):
        self.edge, self.attempts = edge, []

    def __enter__(self):
        self.process = subprocess.Popen([sys.executable, __file__, self.edge], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_):
        said, _ = self.process.communicate()  # it ends when its input does
        for line in said.splitlines():
            when, took = line.split()
            self.attempts.append((float(when), None if took == "-" else float(took)))

    def between(self, begin, end):
        return [took for when, took in self.attempts if begin <= when < end]


async def attempt(edge, due):
    host, port = edge.rsplit(":", 1)
    took = "-"
    with contextlib.suppress(OSError, asyncio.TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(PATIENCE_SECONDS):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(REQUEST.format(edge).encode())
            answer = await reader.readuntil(b"\r\n\r\n")
            if answer.startswith(b"HTTP/1.1 101"):
                took = f"{(time.monotonic() - due) * 1000:.3f}"
            writer.close()
    print(f"{due:.4f} {took}", flush=True)


async def attempts(edge):
    with contextlib.suppress(PermissionError):
        os.nice(NICENESS)
    ended = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    due, running = time.monotonic(), set()
    while not ended.done():
        task = asyncio.create_task(attempt(edge, due))
        running.add(task)
        task.add_done_callback(running.discard)
        due += EVERY_SECONDS
        await asyncio.sleep(max(0.0, due - time.monotonic()))
    await asyncio.gather(*running)


if __name__ == "__main__":
    asyncio.run(attempts(sys.argv[1]))
