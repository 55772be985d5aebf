"""What every sample costs before any is decoded: tokens of the language model, rows of the encoder, and which are bad.

What `tubelet.train.order` makes batches from. One header a picture, one walk over the packets of a clip.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from tubelet.errors import TubeletError
from tubelet.shapes import Int64
from tubelet.train.collate import Collator
from tubelet.train.data.spare import BadSample, planned

BLOCK = 256  # samples handed to a thread at a time


@dataclass(frozen=True, eq=False)
class Costs:
    """Of each sample, by its number."""

    tokens: Int64[np.ndarray, " n"]  # -1 for a bad one
    patches: Int64[np.ndarray, " n"]  # 0 for a bad one
    bad: tuple[BadSample, ...]

    @property
    def planned(self) -> Int64[np.ndarray, " n"]:
        """Tokens to make batches with (`tubelet.train.data.spare.planned`). Raises DataError without a good sample."""
        return planned(self.tokens)


def measure(
    collator: Collator,
    indices: Sequence[int] | None = None,
    *,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Costs:
    """Tokens and patches of samples, all of them without `indices`, in their order; those that cannot be read are bad.

    workers: threads. progress: told how many are done. Cost: reading a record and the headers of its pictures and
    clips, and tokenizing its text. Raises DataError as `Collator` does; other errors are the sample's.
    """
    wanted = range(len(collator.dataset)) if indices is None else indices
    tokens = np.full(len(wanted), -1, np.int64)
    patches = np.zeros(len(wanted), np.int64)
    bad: list[BadSample] = []

    def block(start: int) -> list[tuple[int, int, BadSample | None]]:
        return [_one(collator, wanted[i]) for i in range(start, min(start + BLOCK, len(wanted)))]

    with ThreadPoolExecutor(workers, thread_name_prefix="tubelet-measure") as pool:
        done = 0
        for found in pool.map(block, range(0, len(wanted), BLOCK)):
            for n, (a, b, broken) in enumerate(found, done):
                tokens[n], patches[n] = a, b
                if broken is not None:
                    bad.append(broken)
            done += len(found)
            if progress is not None:
                progress(done)
    return Costs(tokens, patches, tuple(bad))


def _one(collator: Collator, index: int) -> tuple[int, int, BadSample | None]:
    try:
        _, _, made = collator.planned(index, count_only=True)
    except TubeletError as error:
        return -1, 0, BadSample.of(index, error, collator.dataset.name)
    return len(made), made.patches, None
