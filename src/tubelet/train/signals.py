"""SIGTERM, SIGINT and SIGUSR1 as a wish that the loop reads at the border of a step."""

import signal
from types import FrameType, TracebackType

EXIT_CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGUSR1: 0}  # 0: the scheduler asked for a pause
SIGNALS = tuple(EXIT_CODES)


class StopSignals:
    """While the block runs, the signals are noted; afterwards they do what they did before.

    A second SIGINT does what it did before at once. `seen` is a count for each of SIGNALS, for a sum over ranks.
    Must be entered in the main thread, as Python asks of everyone who handles signals.
    """

    def __init__(self) -> None:
        self.seen = [0] * len(SIGNALS)
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> "StopSignals":
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.seen[SIGNALS.index(signal.Signals(number))] += 1
        if number == signal.SIGINT:
            signal.signal(number, self._before[signal.SIGINT])


def asked(counts: list[float]) -> signal.Signals | None:
    """The signal that ends the run, from the sums over ranks: the first of SIGNALS that any rank has seen."""
    return next((number for number, count in zip(SIGNALS, counts, strict=True) if count), None)
