"""OneVision-Encoder's own rules for choosing patches by what a codec says, as its models were trained with them.

    vectors, residual picture ──> energies 0..1 ──> fused ──> letterbox to a square ──> sum in each patch ──> the K best

These are compatibility rules: each frame is scaled by its own 95th percentile, so that a still frame weighs as much as
a busy one; frames without vectors and residuals (key frames, scene cuts) get next to nothing; half of the vectors and
the distance of reference pictures are not looked at. `tubelet.read_sparse` is the corrected method.

Source: EvolvingLMMs-Lab/OneVision-Encoder@c2cd3e0, llava_next/Compressed_Video_Reader/tool/stage1.py (`stage1` below)
and dataloader/ap_dataloader_dali_codec.py (`loader`).
"""

from math import ceil
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
import torch.nn.functional as F

from tubelet.errors import InputError, ShapeError
from tubelet.pixels.sizes import Pad
from tubelet.shapes import Bool, Float, Int32, Int64, Num, Shaped, UInt8

Compensate = Literal["none", "median", "mean", "similarity", "affine"]
Fusion = Literal["weighted", "max", "sum", "geomean"]
Padding = Literal["exclude", "zero"]
First = Literal["none", "content", "full"]
_NEVER, _HARDLY = -1e6, -1e-4  # scores of patches that may not, and should hardly, be chosen
_FIT_POINTS, _FIT_LEAST, _FIT_KEPT = 5000, 64, 0.7  # of a fit of camera motion: the most, the fewest, the share kept


class Energy(NamedTuple):
    """map: (H, W) float32 in 0..1. scale: the percentile it was divided by."""

    map: Float[np.ndarray, "H W"]
    scale: float


def uniform_frames(count: int, frames: int = 64, first: int = 0) -> tuple[int, ...]:
    """`frames` equally spaced frame numbers from `first` to count - 1, cut off; numbers repeat in shorter clips.

    A `first` outside the clip counts as 0. Source: stage1, sample_frame_ids_uniform.

    >>> uniform_frames(5, 8)
    (0, 0, 1, 1, 2, 2, 3, 4)
    """
    if count < 1 or frames < 1:
        raise InputError(f"cannot take {frames} of {count} frames", got=(count, frames))
    first = 0 if not 0 <= first < count else first
    return tuple(np.linspace(first, count - 1, frames, dtype=int).tolist())


# ---- energies of one frame


def motion_energy(
    vectors: Num[np.ndarray, "h w 2"],
    height: int,
    width: int,
    *,
    compensate: Compensate = "median",
    units: float = 4.0,
    percentile: float = 95.0,
) -> Energy:
    """Lengths of a frame's vectors (x, y in 1/units pixels) over their percentile, cut at 1, each cell enlarged to what
    it covers in height x width.

    compensate: what the camera's motion is taken for and subtracted. Source: stage1 and loader, _mv_energy_norm.
    """
    if compensate not in get_args(Compensate):
        raise InputError(f"compensate is one of {', '.join(get_args(Compensate))}", got=compensate)
    moves = vectors.astype(np.float32) / np.float32(units)
    moves = moves - camera_motion(moves, compensate)
    length = np.sqrt(moves[..., 0] ** 2 + moves[..., 1] ** 2).astype(np.float32)
    scale = max(float(np.percentile(length, percentile)), 1e-6)
    small = np.clip(length / scale, 0.0, 1.0).astype(np.float32)
    rows, columns = (np.arange(n) * m // n for n, m in ((height, small.shape[0]), (width, small.shape[1])))
    return Energy(small[rows[:, None], columns], scale)


def camera_motion(moves: Float[np.ndarray, "h w 2"], compensate: Compensate) -> Float[np.ndarray, "h w 2"]:
    """The motion of the camera in each cell: one vector for all, or a similarity or affine field.

    Fields are fitted by least squares in two rounds, the second on the 70 % that the first fits best; where fewer than
    64 cells move, the median stands for them. Source: loader, _mv_fit_global_model.
    """
    if compensate == "none":
        return np.zeros_like(moves)
    if compensate == "mean":
        return np.broadcast_to(_means(moves), moves.shape)
    if compensate == "median":
        return np.broadcast_to(np.median(moves.reshape(-1, 2), axis=0).astype(np.float32), moves.shape)
    flat = moves.reshape(-1, 2)
    sums = np.abs(flat).sum(axis=1)
    chosen = (np.isfinite(sums) & (sums > 1e-3)).nonzero()[0]
    if len(chosen) < _FIT_LEAST:
        return camera_motion(moves, "median")
    if len(chosen) > _FIT_POINTS:
        chosen = chosen[:: ceil(len(chosen) / _FIT_POINTS)]
    design = _design(moves.shape[0], moves.shape[1], compensate)
    for last in (False, True):
        values = flat[chosen].T.reshape(-1)
        found = np.linalg.lstsq(np.concatenate(design[:, chosen]), values, rcond=None)[0].astype(np.float32)
        field = (design @ found).T.astype(np.float32)
        keep = max(_FIT_LEAST, round(len(chosen) * _FIT_KEPT))
        if last or len(chosen) < 2 * _FIT_LEAST or keep >= len(chosen):
            break
        away = flat[chosen] - field[chosen]
        chosen = chosen[np.argsort(np.sqrt(away[:, 0] ** 2 + away[:, 1] ** 2))[:keep]]
    return field.reshape(moves.shape)


def _means(moves: Float[np.ndarray, "h w 2"]) -> Float[np.ndarray, "2"]:
    return np.array([float(np.mean(np.ascontiguousarray(moves[..., k]))) for k in (0, 1)], np.float32)


def _design(h: int, w: int, kind: Compensate) -> Float[np.ndarray, "2 n k"]:
    """The linear model of x and y motion at each cell, at places from -1 to 1: tx, ty, a, b or a0..a2, b0..b2."""
    y, x = np.meshgrid(*(np.linspace(-1.0, 1.0, n, dtype=np.float32) for n in (h, w)), indexing="ij")
    x, y, one = x.reshape(-1), y.reshape(-1), np.ones(h * w, np.float32)
    zero = np.zeros_like(one)
    if kind == "similarity":
        return np.stack([np.stack([one, zero, x, -y], axis=1), np.stack([zero, one, y, x], axis=1)])
    place = np.stack([one, x, y], axis=1)
    none = np.zeros_like(place)
    return np.stack([np.concatenate([place, none], axis=1), np.concatenate([none, place], axis=1)])


def residual_energy(residual: UInt8[np.ndarray, "H W"], *, gradient: bool = False, percentile: float = 95.0) -> Energy:
    """|value - 128| of a residual picture, or half the central differences, over the percentile, cut at 1.

    Source: stage1, _residual_energy_norm.
    """
    values = residual.astype(np.float32)
    if gradient:
        across, down = (np.abs(np.roll(values, -1, axis) - np.roll(values, 1, axis)) for axis in (1, 0))
        size = 0.5 * (across + down)
    else:
        size = np.abs(values - 128.0)
    scale = max(float(np.percentile(size, percentile)), 1.0)
    return Energy(np.clip(size / scale, 0.0, 1.0).astype(np.float32), scale)


def fuse(
    motion: Float[np.ndarray, "H W"],
    residual: Float[np.ndarray, "H W"],
    how: Fusion = "weighted",
    weights: tuple[float, float] = (1.0, 1.0),
) -> Float[np.ndarray, "H W"]:
    """Both energies as one in 0..1. Source: stage1, _fuse_energy."""
    if how == "max":
        fused = np.maximum(motion, residual)
    elif how == "sum":
        fused = motion + residual
    elif how == "geomean":
        fused = np.sqrt(np.clip(motion, 0.0, 1.0) * np.clip(residual, 0.0, 1.0))
    elif how == "weighted":
        fused = (weights[0] * motion + weights[1] * residual) / (sum(weights) or 1.0)
    else:
        raise InputError(f"how is one of {', '.join(get_args(Fusion))}", got=how)
    return np.clip(fused, 0.0, 1.0).astype(np.float32)


def centred(energy: Float[np.ndarray, "H W"], prior: float = 0.3, sigma: float = 0.35) -> Float[np.ndarray, "H W"]:
    """Energy x (1 + prior x a Gaussian around the middle), cut at 1; sigma in shorter sides.

    Source: loader, _apply_center_prior.
    """
    height, width = energy.shape
    if prior <= 0 or min(height, width) <= 1:
        return energy
    width_px = max(sigma * min(height, width), 1.0)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    away = (y - (height - 1) * 0.5) ** 2 + (x - (width - 1) * 0.5) ** 2
    weight = np.exp(-0.5 * away / (width_px * width_px)).astype(np.float32)
    return np.clip(energy * (1.0 + prior * (weight / float(weight.max()))), 0.0, 1.0).astype(np.float32)


# ---- the square


def letterbox(height: int, width: int, size: int = 576) -> Pad:
    """Where a picture lies in a size x size square: the longer side fills it, the rest is padding around."""
    scale = size / max(height, width)
    h, w = max(1, round(height * scale)), max(1, round(width * scale))
    return Pad(h, w, (size - h) // 2, (size - w) // 2, size, size)


def squared(energy: Float[np.ndarray, "H W"], size: int = 576) -> Float[np.ndarray, "S S"]:
    """An energy map in the square, bilinear without antialiasing (as OpenCV's INTER_LINEAR), 0 around it.

    Source: stage1, _resize_longer_pad_square_map.
    """
    pad = letterbox(energy.shape[0], energy.shape[1], size)
    small = F.interpolate(
        torch.from_numpy(np.ascontiguousarray(energy, dtype=np.float32))[None, None],
        size=(pad.resize_h, pad.resize_w),
        mode="bilinear",
        align_corners=False,
    )[0, 0]
    out = np.zeros((size, size), np.float32)
    out[pad.top : pad.top + pad.resize_h, pad.left : pad.left + pad.resize_w] = small.numpy()
    return out


def valid_patches(pad: Pad, patch: int = 16) -> Bool[np.ndarray, "h w"]:
    """Which patches of the square hold nothing but picture. Source: stage1, _valid_patch_mask_from_pad."""
    if pad.height % patch or pad.width % patch:
        raise ShapeError(f"a {pad.width} x {pad.height} square has no patches of {patch}", expected=patch)
    sides = ((pad.top, pad.resize_h, pad.height), (pad.left, pad.resize_w, pad.width))
    rows, columns = (
        (np.arange(0, whole, patch) >= begin) & (np.arange(0, whole, patch) + patch <= begin + length)
        for begin, length, whole in sides
    )
    return rows[:, None] & columns


# ---- the choice


def best_patches(
    energy: Float[np.ndarray, "F S S"],
    valid: Bool[np.ndarray, "h w"],
    *,
    patch: int = 16,
    frames: int = 8,
    padding: Padding = "exclude",
    first: First = "none",
) -> Int32[np.ndarray, "K 3"]:
    """(t, h, w) of the patches with the largest sums over the whole clip, the best first.

    padding: "exclude" chooses as many patches as `frames` frames have of picture, "zero" as many as they have at all,
    with padding behind all content. first: of frame 0 all patches with content, or all patches ("full", which counts as
    "zero" does), come first, in raster order, and the rest from the other frames.
    Source: stage1, global_topk_thw_square576. Equal sums: torch.topk's order, as there.
    """
    count, height, width = energy.shape
    h, w = height // patch, width // patch
    if (h * patch, w * patch) != (height, width) or valid.shape != (h, w):
        raise ShapeError("energies and valid patches do not fit", expected=(h, w), got=valid.shape)
    sums = torch.from_numpy(energy).reshape(count, h, patch, w, patch).sum(dim=(2, 4)).reshape(count, h * w)
    inside = torch.from_numpy(valid.reshape(-1).copy())
    sums[:, ~inside] = _NEVER if padding == "exclude" and first != "full" else _HARDLY
    of_frame = int(inside.sum()) if padding == "exclude" and first != "full" else h * w
    keep = min(frames * of_frame, count * of_frame)
    must = {"none": inside & False, "content": inside, "full": inside | True}[first].nonzero().flatten()
    if keep <= len(must):
        return _thw(must[:keep], h, w)
    if first != "none":
        sums[0] = _NEVER
    _, order = torch.topk(sums.reshape(-1), keep - len(must), largest=True, sorted=True)
    return _thw(torch.cat([must, order]), h, w)


def _thw(index: torch.Tensor, h: int, w: int) -> Int32[np.ndarray, "K 3"]:
    number = index.numpy()
    return np.stack([number // (h * w), number % (h * w) // w, number % w], axis=1).astype(np.int32)


def visible_indices(
    energy: Num[np.ndarray, "F H W"],
    patch: int,
    keep: int,
    *,
    static: bool = True,
    static_levels: float = 2.0,
    static_contrast: float = 0.15,
    static_frames: int = 4,
) -> Int32[np.ndarray, " K"]:
    """Numbers of the `keep` patches with the largest sums of |energy|, ascending; fewer where there are fewer.

    static: a clip whose patches have a 95th percentile of mean energy below static_levels, or below twice that and a
    contrast to the median below static_contrast, gives `static_frames` equally spaced frames first.
    Source: loader, compute_visible_indices_cpu.
    """
    count, height, width = energy.shape
    if height % patch or width % patch:
        raise ShapeError(f"sides of {height} and {width} are no multiples of {patch}", expected=patch)
    h, w = height // patch, width // patch
    sums = np.abs(energy).reshape(count, h, patch, w, patch).sum(axis=(2, 4)).reshape(-1)
    keep = max(0, min(keep, len(sums)))
    first = np.empty(0, np.int64)
    if static and keep and _is_static(sums, patch, static_levels, static_contrast):
        first = _some_frames(count, h * w, keep, static_frames)
    rest = sums.astype(np.float32)
    rest[first] = -np.inf
    left = keep - len(first)
    best = np.argpartition(rest if len(first) else sums, len(sums) - left)[len(sums) - left :] if left else first[:0]
    return np.sort(np.concatenate([first, best])).astype(np.int32)


def _is_static(sums: np.ndarray, patch: int, levels: float, contrast: float) -> bool:
    means = sums.astype(np.float32) / float(patch * patch)
    high, middle = (float(np.percentile(means, q)) for q in (95.0, 50.0))
    return high < levels or (high < 2 * levels and (high - middle) / max(high, 1e-6) < contrast)


def _some_frames(count: int, of_frame: int, keep: int, frames: int) -> Int64[np.ndarray, " n"]:
    """Patches of `frames` equally spaced frames: all of them, or equally many equally spaced ones of each."""
    frames = min(count, max(1, frames))
    numbers = np.linspace(0, count - 1, frames, dtype=int)
    if keep >= frames * of_frame:
        return (numbers[:, None] * of_frame + np.arange(of_frame)).reshape(-1)
    parts = []
    for j, number in enumerate(numbers.tolist()):
        share = keep // frames + (j < keep % frames)
        places = [min(of_frame - 1, round(i * of_frame / share)) for i in range(share)]
        places = list(dict.fromkeys(places))
        spare = (p for p in range(of_frame) if p not in places)
        places += [next(spare) for _ in range(share - len(places))]
        parts.append(number * of_frame + np.array(places, np.int64))
    return np.concatenate(parts)


# ---- vectors as upstream's reader hands them on


def whole_pixel_vectors(
    vectors: Shaped[np.ndarray, " n"] | None, height: int, width: int
) -> Int32[np.ndarray, "h w 2"]:
    """(x, y) in whole pixels on a grid of 4 x 4 pixels: of the first list alone, towards the picture referred to, the
    fraction cut off, 0 where there is none; of a block told twice the later one.

    vectors: AVMotionVector records of one decoded H.264 picture. Source: EvolvingLMMs-Lab/OneVision-Encoder:
    llava_next/Compressed_Video_Reader/src/cv_reader/h264_api.cpp@c2cd3e0.
    """
    field = np.zeros((height // 4, width // 4, 2), np.int32)
    if vectors is None:
        return field
    mine = vectors[(vectors["source"] <= 0) & (vectors["dst_x"] % 4 == 0) & (vectors["dst_y"] % 4 == 0)]
    across, down = mine["w"].astype(np.int64) // 8 * 2, mine["h"].astype(np.int64) // 8 * 2
    cells = across * down
    which = np.arange(len(mine)).repeat(cells)
    inside = np.arange(len(which)) - (cells.cumsum() - cells)[which]
    x = mine["dst_x"][which] // 4 - across[which] // 2 + inside % across[which]
    y = mine["dst_y"][which] // 4 - down[which] // 2 + inside // across[which]
    there = (x >= 0) & (x < field.shape[1]) & (y >= 0) & (y < field.shape[0])
    which = which[there]
    field[y[there], x[there], 0] = (mine["src_x"].astype(np.int32) - mine["dst_x"])[which]
    field[y[there], x[there], 1] = (mine["src_y"].astype(np.int32) - mine["dst_y"])[which]
    return field


def canvas_order(thw: Int32[np.ndarray, "K 3"]) -> Int32[np.ndarray, "K 3"]:
    """Chosen patches in the order in which they are laid out on canvases: by t, then h, then w.

    Source: llava_next/Compressed_Video_Reader/tool/stage2.py@c2cd3e0.
    """
    return thw[np.lexsort(thw.T[::-1])]
