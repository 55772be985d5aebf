"""Ward clustering against the definition, where no merges tie."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tubelet.reduce.history.ward import ward


def by_definition(points: np.ndarray, clusters: int) -> np.ndarray:
    """Merge the two clusters that add least to the sum of squared distances to the means, again and again."""
    groups = [[i] for i in range(len(points))]

    def spread(group: list[int]) -> float:
        return float(((points[group] - points[group].mean(axis=0)) ** 2).sum())

    while len(groups) > clusters:
        pairs = [(i, j) for i in range(len(groups)) for j in range(i)]
        i, j = min(
            pairs, key=lambda p: spread(groups[p[0]] + groups[p[1]]) - spread(groups[p[0]]) - spread(groups[p[1]])
        )
        groups[j] += groups.pop(i)
    label = np.zeros(len(points), dtype=int)
    for number, group in enumerate(sorted(groups, key=min)):
        label[group] = number
    return label


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 14), st.integers(1, 14), st.integers(1, 3), st.integers(0, 9999))
def test_ward_is_the_definition(n: int, clusters: int, width: int, seed: int):
    points = np.random.default_rng(seed).normal(size=(n, width))
    assert ward(points, clusters).tolist() == by_definition(points, clusters).tolist()


def test_clusters_of_a_grid_are_numbered_by_their_first_points_though_merges_tie():
    i = np.arange(144)
    label = ward(np.stack([i // 12, i % 12], axis=1), 9)
    _, first = np.unique(label, return_index=True)
    assert len(first) == 9
    assert first.tolist() == sorted(first)
    for number in range(9):  # each cluster is one block without holes
        rows, columns = np.divmod(np.flatnonzero(label == number), 12)
        assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
