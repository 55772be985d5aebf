"""SHIRG-X, SHIRG-Fixed and the dual-scale versions: one view of 48 x 48 tokens, text or length, minus penalties.

Faults kept. X: the coordinates of most tokens are those of another, because the index is held below K. Merging by
neighbours asks all images of the batch at once. Dual-scale: after merging there may be fewer than K tokens, so the
count is not fixed. The modular versions smooth tokens where scores are large, which a bonus of 10 makes certain.
Source: rkawamura0483/LaViDa_mod:llava/model/multimodal_encoder at the commits named below; siglip_encoder.py up to
34fb12b, siglip_shirg.py from 9ab210f.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tubelet.errors import InputError
from tubelet.reduce.history.parts import (
    SUMMARY,
    Chosen,
    best,
    best_of_regions,
    box,
    centre_distance,
    coordinates,
    dot_or_norm,
    first_then_best,
    image,
    meancos,
    mm,
    nz,
    side_of,
    sobel,
    taken,
)
from tubelet.shapes import Float, Int64, Shaped

EPSILON = 0.05  # scores nearer than this may merge
_BUDGETS = (512, 768, 1024)
_EDGE_CHANNELS = 16

Modular = Literal["9ab210f", "3c07ec2", "bd9a45f", "6911a60", "c864fb6", "cc2a828"]


# ---- SHIRG-X


def x_neighbour(x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N"]:
    """mm of the mean over channels of the squared distance to the 3 x 3 mean."""
    grid = image(x, side_of(x))
    return mm((grid - box(grid)).square().mean(dim=1).flatten(1))


def x_adaptive_k(x: Float[Tensor, "B N D"]) -> tuple[Int64[Tensor, " B"], Float[Tensor, " B"]]:
    """Budget and "entropy" of each image: the mean variance, set against the least and greatest of the batch, so that
    an image alone always gets 512. Source: c1a3015."""
    entropy = x.var(dim=2).mean(dim=1)
    level = (entropy - entropy.min()) / (entropy.max() - entropy.min() + 1e-8)
    return torch.tensor(_BUDGETS)[(level > 0.3).long() + (level > 0.7).long()], entropy


def merged_neighbours(scores: Float[Tensor, "B N"], epsilon: float = EPSILON) -> list[list[int]]:
    """Groups of cells in raster order: a cell and those of its right, lower, left and upper neighbour that are free
    and nearer in score than epsilon in every image of the batch. The first of a group stands for it."""
    side = side_of(scores)
    free, groups = [True] * (side * side), []
    for i in range(side * side):
        if not free[i]:
            continue
        group, (r, c) = [i], divmod(i, side)
        free[i] = False
        for dr, dc in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            j = (r + dr) * side + c + dc
            inside = 0 <= r + dr < side and 0 <= c + dc < side
            if inside and free[j] and bool(((scores[:, i] - scores[:, j]).abs() < epsilon).all()):
                group.append(j)
                free[j] = False
        groups.append(group)
    return groups


def merged_coordinates(side: int, groups: list[list[int]]) -> Float[Tensor, "M 4"]:
    """Centre of each group and a square of its area."""
    cells = coordinates(side)
    out = []
    for group in groups:
        x, y, h, w = cells[group].unbind(dim=1)
        area = (h * w).sum()
        joined = torch.stack([(x * h * w).sum() / area, (y * h * w).sum() / area, area.sqrt(), area / area.sqrt()])
        out.append(cells[group[0]] if len(group) == 1 else joined)
    return torch.stack(out)


def x_scores(x: Float[Tensor, "B N D"], text: Tensor | None, neighbour: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    return 0.7 * dot_or_norm(x, text) - 0.2 * neighbour - 0.1 * centre_distance(side_of(x))


def shirg_x(
    x: Float[Tensor, "B N D"], text: Float[Tensor, "B S D"] | None = None, *, budget: int = 768, merge: bool = False
) -> Chosen:
    """Source: c1a3015, no merging, the neighbour term is the variance; 4b4e683 (merge=True) merges, then looks up the
    merged list by positions of the unmerged one, held below its length: wrong tokens by construction."""
    side, n = side_of(x), x.shape[1]
    if not merge:
        scores = x_scores(x, text, x.var(dim=2))
        tokens, names, coords = x, torch.arange(n), coordinates(side)
    else:
        scores = x_scores(x, text, x_neighbour(x))
        groups = merged_neighbours(scores)
        names, coords = torch.tensor([g[0] for g in groups]), merged_coordinates(side, groups)
        tokens = x[:, names]
    if tokens.shape[1] <= budget:
        return Chosen(tokens, names.expand(len(x), -1), coords.expand(len(x), -1, -1))
    index = best(scores, budget).clamp(max=tokens.shape[1] - 1)
    wrong = coordinates(side)[index.clamp(max=min(n, index.shape[1]) - 1)]
    return Chosen(taken(tokens, index), names[index], wrong)


# ---- SHIRG-Fixed


def fixed(
    x: Float[Tensor, "B N D"], text: Float[Tensor, "B S D"] | None = None, *, budget: int = 768, region: int = 4
) -> Chosen:
    """0.7 dot or length + 0.3 variance, the best of each region first. Source: 8dc798e (regions of 4), 34fb12b (8).

    Raises InputError when the budget does not hold one token of each region.
    """
    scores = 0.7 * dot_or_norm(x, text) + 0.3 * x.var(dim=2)
    first = best_of_regions(scores, side_of(x), region)
    if budget < first.shape[1]:
        raise InputError(f"{first.shape[1]} regions do not fit a budget of {budget}", limit=budget, got=first.shape[1])
    index = first_then_best(scores, first, budget)
    return Chosen(taken(x, index), index)


# ---- dual scale, in the encoder's file


def scale_neighbour(x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N"]:
    """mm of the variance inside the 3 x 3 window, zeros beyond the border, mean over channels."""
    grid = image(x, side_of(x))
    windows = F.unfold(grid, 3, padding=1).unflatten(1, (x.shape[2], 9))
    return mm(windows.var(dim=2, correction=0).mean(dim=1))


def merged_blocks(
    x: Float[Tensor, "B N D"], scores: Float[Tensor, "B N"], epsilon: float = EPSILON
) -> tuple[Float[Tensor, "B M D"], Float[Tensor, "B M 4"], Float[Tensor, "B M"], Int64[Tensor, "B M"]]:
    """2 x 2 blocks whose scores lie within epsilon become their mean; tokens, coordinates, scores and index.

    Blocks in raster order, then the odd last row and column; images with fewer tokens repeat their last.
    """
    side, cells = side_of(x), coordinates(side_of(x))
    parts = []
    for image_x, image_scores in zip(x, scores, strict=True):
        tokens, places, values, index = [], [], [], []
        for i in range(0, side - 1, 2):
            for j in range(0, side - 1, 2):
                block = [i * side + j, i * side + j + 1, (i + 1) * side + j, (i + 1) * side + j + 1]
                own = image_scores[block]
                if bool(own.max() - own.min() < epsilon):
                    tokens.append(image_x[block].mean(dim=0, keepdim=True))
                    places.append(merged_coordinates(side, [block]))
                    values.append(own.mean()[None])
                    index.append(SUMMARY)
                else:
                    tokens.append(image_x[block])
                    places.append(cells[block])
                    values.append(own)
                    index += block
        even = side // 2 * 2
        rest = [k for k in range(side * side) if k // side >= even or k % side >= even]
        parts.append(
            (
                torch.cat([*tokens, image_x[rest]]),
                torch.cat([*places, cells[rest]]),
                torch.cat([*values, image_scores[rest]]),
                torch.tensor([*index, *rest]),
            )
        )
    most = max(len(part[0]) for part in parts)
    longest = torch.arange(most)
    tokens, places, values, index = (
        torch.stack([v[longest.clamp(max=len(v) - 1)] for v in column]) for column in zip(*parts, strict=True)
    )
    return tokens, places, values, index


def dual_scale(x: Float[Tensor, "B N D"], text: Float[Tensor, "B S D"] | None = None, *, budget: int = 1152) -> Chosen:
    """Scores, then merging, then the best of what is left, which may be fewer. Source: 8de9585, 34fb12b."""
    tokens, coords, scores, index = merged_blocks(x, x_scores(x, text, scale_neighbour(x)))
    if tokens.shape[1] <= budget:
        return Chosen(tokens, index, coords)
    top = best(scores, budget)
    return Chosen(taken(tokens, top), index.gather(1, top), taken(coords, top))


# ---- dual scale, in a file of its own


def modular(
    x: Float[Tensor, "B N D"],
    text: Float[Tensor, "B S E"] | None = None,
    *,
    budget: int = 1152,
    commit: Modular = "cc2a828",
) -> Chosen:
    """The scores of six commits. Text of another width: as without text at cc2a828, refused by torch before."""
    side = side_of(x)
    if commit == "cc2a828" and text is not None and text.shape[2] != x.shape[2]:
        text = None
    if commit in ("9ab210f", "3c07ec2", "bd9a45f"):
        scores = _smooth_scores(x, text, commit)
        tokens = _smoothed(x, scores)
    else:
        scores, tokens = _plain_scores(x, text, commit), x
    index = best(scores, budget)
    came = index if tokens is x else torch.full_like(index, SUMMARY)
    coords = coordinates(side)[index] if commit in ("9ab210f", "3c07ec2") else None
    return Chosen(taken(tokens, index), came, coords, index)


def _smooth_scores(x: Tensor, text: Tensor | None, commit: Modular) -> Float[Tensor, "B N"]:
    side = side_of(x)
    if commit == "9ab210f":
        near = x.norm(dim=2) if text is None else meancos(x, text)
        return 0.7 * near - 0.2 * _rough(x) - 0.1 * centre_distance(side)
    near = 0.6 * nz(x.norm(dim=2)) + 0.4 * nz(x.var(dim=2)) if text is None else meancos(x, text)
    edge = sobel(image(x[..., :_EDGE_CHANNELS], side).mean(dim=1), replicate=False, floor=1e-6)
    if commit == "bd9a45f":  # the centre is that of the flat index, on even grids the first column of the middle row
        centre = _cells_from(side, *divmod(side * side // 2, side))
    else:
        centre = centre_distance(side)
    scores = 0.5 * near + 0.3 * nz(edge) - 0.15 * nz(_rough(x)) - 0.05 * nz(centre)
    return scores + torch.zeros_like(scores).scatter(1, best_of_regions(scores, side, 8), 10.0)


def _plain_scores(x: Tensor, text: Tensor | None, commit: Modular) -> Float[Tensor, "B N"]:
    side = side_of(x)
    centre = nz(_cells_from(side, side // 2, side // 2))
    if commit == "6911a60":
        near = nz(x.norm(dim=2)) if text is None else meancos(x, text)
        scores = 0.9 * near - 0.1 * centre
    else:
        alone = 0.7 * nz(x.var(dim=2)) + 0.3 * nz(x.abs().mean(dim=2))
        near = alone if text is None else meancos(x, text)
        scores = 0.7 * nz(near) - 0.2 * nz(_rough(x)) - 0.1 * centre
    regions = max(1, side // 8)
    grid = scores.unflatten(1, (side, side))[:, None]
    peaks = F.interpolate(F.adaptive_max_pool2d(grid, regions), size=(side, side), mode="nearest")
    return (grid + 5.0 * (grid >= peaks)).flatten(1)


def _rough(x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N"]:
    """Mean over channels and the 3 x 3 window of the squared distance to the 3 x 3 mean."""
    grid = image(x, side_of(x))
    return box((grid - box(grid)).square()).mean(dim=1).flatten(1)


def _cells_from(side: int, row: int, column: int) -> Float[Tensor, " N"]:
    """Distance of each cell to one, in cells."""
    i = torch.arange(side * side)
    return ((i // side - row).float().square() + (i % side - column).float().square()).sqrt()


def _smoothed(x: Float[Tensor, "B N D"], scores: Float[Tensor, "B N"]) -> Shaped[Tensor, "B N D"]:
    """Tokens blended with their 3 x 3 mean by 10 times the 3 x 3 mean of the squared scores, at most 1."""
    side = side_of(x)
    grid = image(x, side)
    weight = (box(scores.unflatten(1, (side, side))[:, None].square()) * 10).clamp(0, 1)
    return ((1 - weight) * grid + weight * box(grid)).flatten(2).transpose(1, 2)
