"""The process that judges files: bounded in time for each of them, and replaced when it hangs or dies."""

import multiprocessing
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tools.corpus.judge import Verdict, class_of, judge

SPAWN = multiprocessing.get_context("spawn")


class Judge:
    """A process that judges one file after another, and is replaced when it takes too long or dies."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._start()

    def _start(self) -> None:
        self.link, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def __call__(self, path: Path, name: str) -> dict[str, Any]:
        begun = time.monotonic()
        self.link.send((path, name))
        try:
            answered = self.link.poll(self.seconds)
            found = self.link.recv() if answered else {}
            why = f"more than {self.seconds:g} s"
        except (EOFError, ConnectionError):
            found, why = {}, "the process that read it died"
        if not found:
            self.close()
            self._start()
            found = Verdict(name, class_of(path), "given up", why, [why]).as_dict()
        return found | {"seconds": round(time.monotonic() - begun, 3)}

    def close(self) -> None:
        self.process.kill()
        self.process.join()
        self.link.close()


def _serve(link: Connection) -> None:
    while True:
        path, name = link.recv()
        link.send(judge(path, name).as_dict())
