"""Interpreters that are begun before there is a store: they import torch while this process plans.

    with Interpreters(4) as begun:
        ...                                            a plan is made
        for report in run(store, workers=4, begun=begun): ...

Each waits at its standard input for a store and a line (`tubelet.scale.child`), and ends when that is closed.
"""

import socket
import subprocess
import sys
from collections import deque


class Interpreters:
    """Processes that wait for something to do. Those that nobody took end with the block."""

    def __init__(self, count: int) -> None:
        self._waiting = deque(_begin() for _ in range(count))

    def __enter__(self) -> "Interpreters":
        return self

    def __exit__(self, *_: object) -> None:
        for door, process in self._waiting:
            with door:
                process.kill()
                process.wait()
        self._waiting.clear()

    def take(self) -> tuple[socket.socket, subprocess.Popen[bytes]]:
        """One that waits, or a new one; and the door it waits at, which the caller closes. Raises OSError."""
        return self._waiting.popleft() if self._waiting else _begin()


def _begin() -> tuple[socket.socket, subprocess.Popen[bytes]]:
    door, theirs = socket.socketpair()
    with theirs:
        try:
            words = [sys.executable, "-m", "tubelet.scale.child"]
            process = subprocess.Popen(words, stdin=theirs.fileno(), stdout=subprocess.DEVNULL, start_new_session=True)
        except OSError:
            door.close()
            raise
    return door, process
