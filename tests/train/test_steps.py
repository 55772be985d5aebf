"""Step counts, by walking over the samples."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.errors import InputError
from tubelet.train.steps import effective_batch, steps_of


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 5))
def test_every_sample_is_in_one_step(samples: int, batch: int, epochs: int):
    steps, left = 0, samples * epochs
    while left > 0:
        left -= batch
        steps += 1
    assert steps_of(samples, batch, epochs) == steps


def test_the_counts_of_the_plan():
    """558,000 pairs and 50,000 pages; 8 processes of 32 with 4 micro-batches are 1,024 samples a step, not 128."""
    assert steps_of(558_000 + 50_000, 128) == 4750
    assert steps_of(608_000, effective_batch(32, accumulate=4)) == 4750
    assert steps_of(608_000, effective_batch(32, accumulate=4, world=8)) == 594


@pytest.mark.parametrize("wrong", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_nothing_below_one(wrong: tuple[int, int, int]):
    for count in (steps_of, effective_batch):
        with pytest.raises(InputError):
            count(*wrong)
