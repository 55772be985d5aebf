"""Order of samples: a pure function of seed and step, nothing dropped, nothing repeated, ranks evenly loaded."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tubelet.errors import ConfigError, DataError, LimitError
from tubelet.train.order import Batches, Cost, cached_tokens, seed_of


def slow_stream(batches: Batches, epochs: int) -> list[list[int]]:
    """Batches one sample at a time: the obvious twin of the prefix sums."""
    out: list[list[int]] = [[]]
    room = batches.budget
    for epoch in range(epochs):
        words = np.random.Philox(key=[batches.seed, epoch], counter=[0, 0, 0, 0]).random_raw(len(batches.tokens))
        for i in np.argsort(words, kind="stable").tolist():
            if batches.tokens[i] > room:
                out.append([])
                room = batches.budget
            out[-1].append(i)
            room -= int(batches.tokens[i])
    return out


def case(number: int) -> tuple[np.ndarray, dict]:
    draw = np.random.default_rng(number)
    tokens = draw.integers(1, int(draw.integers(2, 60)), int(draw.integers(1, 40)))
    settings = {
        "budget": int(tokens.max() * draw.uniform(1, 6)),
        "seed": int(draw.integers(2**62)),
        "world": int(draw.integers(1, 5)),
        "accumulation": int(draw.integers(1, 4)),
        "cost": Cost(*draw.uniform(0, 1, 3)),
    }
    return tokens, settings


def ids_of(step: tuple) -> list[int]:
    return [i for rank in step for micro in rank for i in micro.ids]


def test_a_thousand_orders_give_every_sample_once_an_epoch_and_the_same_after_any_restart():
    for number in range(1000):
        tokens, settings = case(number)
        batches = Batches(tokens, **settings)
        per_step, slow = batches.per_step, slow_stream(batches, 2)
        for step in range(len(slow[:-1]) // per_step):
            made = batches.at(step)
            expected = [i for batch in slow[step * per_step : (step + 1) * per_step] for i in batch]
            assert sorted(ids_of(made)) == sorted(expected)
            assert all(len(rank) == batches.accumulation for rank in made)
            assert all(sum(tokens[list(m.ids)]) <= batches.budget for rank in made for m in rank)
            assert sorted(m.number for rank in made for m in rank) == list(range(per_step))
        cut = number % (len(slow) // per_step + 1)
        assert Batches(tokens, **settings).at(cut) == batches.at(cut)


def test_an_epoch_is_every_sample_once():
    tokens = np.random.default_rng(1).integers(1, 50, 500)
    batches = Batches(tokens, 200, seed=3, world=3, accumulation=2)
    stream = [i for step in range(batches.steps(4)) for batch in range(6) for i in batches._ids(step * 6 + batch)]
    for epoch in range(4):
        assert sorted(stream[epoch * 500 : (epoch + 1) * 500]) == list(range(500))


def test_steps_are_as_many_as_it_takes():
    tokens = np.random.default_rng(1).integers(1, 50, 500)
    batches = Batches(tokens, 200, seed=3, world=2)
    counts: Counter = Counter()
    for step in range(batches.steps(2) - 1):
        counts.update(ids_of(batches.at(step)))
    assert len(counts) < 500 or min(counts.values()) < 2
    counts.update(ids_of(batches.at(batches.steps(2) - 1)))
    assert min(counts[i] for i in range(500)) >= 2


def test_the_set_of_a_step_depends_on_ranks_times_accumulation_alone():
    tokens = np.random.default_rng(2).integers(1, 50, 400)
    one, two, four = (Batches(tokens, 100, seed=9, world=w, accumulation=4 // w) for w in (1, 2, 4))
    for step in range(30):
        micros = [{m for rank in b.at(step) for m in rank} for b in (one, two, four)]
        assert micros[0] == micros[1] == micros[2]
    assert one.fingerprint == two.fingerprint != Batches(tokens, 100, seed=9, world=2).fingerprint


@pytest.mark.parametrize("quadratic", [0.0, 1 / 1000])
def test_ranks_are_loaded_within_a_tenth(quadratic: float):
    tokens = np.random.default_rng(3).integers(20, 1000, 5000)
    batches = Batches(tokens, 16384, seed=1, world=4, cost=Cost(quadratic, 1.0, 5.0))
    for step in range(30):
        n = [np.concatenate([tokens[list(m.ids)] for m in rank]).astype(float) for rank in batches.at(step)]
        loads = [(quadratic * k * k + k + 5.0).sum() for k in n]
        assert max(loads) <= 1.1 * np.mean(loads)


def test_epochs_smaller_than_a_batch():
    batches = Batches([1, 2, 3], 100, seed=1, world=2)
    counts = Counter(i for step in range(10) for i in ids_of(batches.at(step)))
    assert max(counts.values()) - min(counts.values()) <= 1
    assert batches.epoch(9) > 100


def test_a_late_step_needs_no_earlier_one_in_memory():
    tokens = np.random.default_rng(4).integers(1, 50, 50)
    late, early = Batches(tokens, 100, seed=5), Batches(tokens, 100, seed=5)
    for step in range(300):
        early.at(step)
    assert late.at(299) == early.at(299)
    assert late.at(3) == early.at(3)
    assert len(late._kept) <= 3


def test_spares_are_no_longer_than_what_they_replace():
    tokens = np.random.default_rng(6).integers(5, 50, 200)
    batches = Batches(tokens, 100, seed=5)
    for sample in range(200):
        if (tokens <= tokens[sample]).sum() > 1:
            spares = [batches.spare(sample, attempt) for attempt in range(20)]
            assert all(tokens[s] <= tokens[sample] and s != sample for s in spares)
            assert spares == [Batches(tokens, 100, seed=5).spare(sample, attempt) for attempt in range(20)]
    with pytest.raises(DataError, match="no other sample"):
        Batches([3, 7], 10).spare(0, 0)


def test_seeds_are_apart():
    seeds = {seed_of(s, step, n) for s in range(4) for step in range(50) for n in range(8)}
    assert len(seeds) == 4 * 50 * 8
    assert seed_of(0, 0, 0) == seed_of(0, 0, 0)
    assert all(0 <= s < 2**63 for s in seeds)


def test_wrong_input_names_the_sample():
    with pytest.raises(LimitError) as e:
        Batches([1, 9, 2], 8)
    assert (e.value.item, e.value.limit, e.value.got) == (1, 8, 9)
    with pytest.raises(LimitError) as e:
        Batches([1, 0], 8)
    assert e.value.item == 1
    with pytest.raises(DataError):
        Batches([], 8)
    with pytest.raises(ConfigError):
        Batches([1], 8, seed=-1)
    with pytest.raises(ConfigError):
        Batches([1], 8, world=0)
    with pytest.raises(ConfigError):
        Batches([1], 8).at(-1)


def test_counts_are_kept_for_a_fingerprint(tmp_path: Path):
    path, calls = tmp_path / "order.npz", []

    def count() -> list[int]:
        calls.append(1)
        return [4, 2]

    assert cached_tokens(path, "a", count).tolist() == cached_tokens(path, "a", count).tolist() == [4, 2]
    assert len(calls) == 1
    cached_tokens(path, "b", count)
    assert len(calls) == 2
    for damaged in (b"", path.read_bytes()[:100], b"PK" + bytes(50)):
        path.write_bytes(damaged)
        assert cached_tokens(path, "b", count).tolist() == [4, 2]
    assert [f.name for f in tmp_path.iterdir()] == ["order.npz"]


def test_order_needs_no_torch():
    code = "import sys, tubelet.train.order; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
