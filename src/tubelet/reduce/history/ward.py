"""Ward clustering of points: merge the two clusters whose joint variance grows least, until few enough are left.

Only SHIRG's first version needs it, on a regular grid where many merges tie; the order of ties is that of the library
it used, so that its groups come out.
"""

import numpy as np


def ward(points: np.ndarray, clusters: int) -> np.ndarray:
    """The cluster of each point, 0 .. clusters - 1 in the order of their first points.

    points (n, d); memory n^2 floats, time O(n^2).
    Source: Murtagh, "A survey of recent advances in hierarchical clustering algorithms", 1983 (nearest-neighbour
    chain); Lance and Williams, 1967 (the update). Ties as in scipy:scipy/cluster/_hierarchy.pyx@v1.17 (nn_chain): a
    chain starts at the first cluster, prefers where it came from, then the lowest index, and a merged cluster takes the
    higher index of the two; merges of equal height count in the order they were found.

        >>> ward(np.array([[0.0], [1.0], [10.0], [11.0], [12.0]]), 2).tolist()
        [0, 0, 1, 1, 1]
    """
    n = len(points)
    left, right, height = _merges(np.asarray(points, dtype=np.float64))
    parent = list(range(n))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for k in np.argsort(height, kind="stable")[: max(0, n - clusters)]:
        parent[root(int(left[k]))] = root(int(right[k]))
    _, first, label = np.unique([root(i) for i in range(n)], return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[label]


def _merges(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """n - 1 merges in the order a nearest-neighbour chain finds them: two points, one of each cluster, and height."""
    n = len(points)
    distance = np.sqrt(((points[:, None] - points[None]) ** 2).sum(axis=-1))
    np.fill_diagonal(distance, np.inf)
    size = np.ones(n)
    left, right, height = np.zeros(max(n - 1, 0), int), np.zeros(max(n - 1, 0), int), np.zeros(max(n - 1, 0))
    chain: list[int] = []
    for k in range(n - 1):
        if not chain:
            chain.append(int(np.flatnonzero(size)[0]))
        while True:
            x = chain[-1]
            y = int(distance[x].argmin())
            if len(chain) > 1 and distance[x, chain[-2]] <= distance[x, y]:
                y = chain[-2]
                break
            chain.append(y)
        del chain[-2:]
        x, y = min(x, y), max(x, y)
        left[k], right[k], height[k] = x, y, distance[x, y]
        _join(distance, size, x, y)
    return left, right, height


def _join(distance: np.ndarray, size: np.ndarray, x: int, y: int) -> None:
    """y becomes the union of x and y; x is gone."""
    to_x, to_y, between = distance[x].copy(), distance[y].copy(), distance[x, y]
    share = 1.0 / (size[x] + size[y] + size)
    with np.errstate(invalid="ignore"):  # infinity where a cluster is gone
        square = (size + size[x]) * share * to_x * to_x + (size + size[y]) * share * to_y * to_y
        update = np.sqrt(square - size * share * between * between)
    gone = size == 0
    gone[[x, y]] = True
    update[gone] = np.inf
    size[y] += size[x]
    size[x] = 0
    distance[y], distance[:, y] = update, update
    distance[x], distance[:, x] = np.inf, np.inf
