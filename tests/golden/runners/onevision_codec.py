"""codec_select, codec_demo_real: upstream's choice of patches by vectors and residuals, and its result on a clip."""

import re
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from tubelet.reading.codec.vectors import exported
from tubelet.reading.limits import Limits
from tubelet.reading.sampling import Sampling
from tubelet.reading.source import Source, open_source
from tubelet.reading.video.decode import decode_plain
from tubelet.reading.video.packets import Segment
from tubelet.reading.video.video import plan_video
from tubelet.reading.video.wanted import DecodeJob
from tubelet.reduce.history import onevision_codec as oc

from ..cases import Case, Mismatch

CENTRE_PRIOR = 0.5  # the fixture's, which its configuration does not list
FIRST = {"none": "none", "uniform_first": "content", "first_full": "full"}
CLIP = Path("media", "clip_h264_a.mp4")  # beside the golden folder
LEAST_SHARE = 0.70  # of upstream's choice after frame 0; by chance it would be 0.20, by frame differences 0.26


# ---- recorded arrays in, recorded arrays out


def run_codec_select(case: Case) -> None:
    """Every output by its name; those of one frame end in its number."""
    c = case.config
    choices = {
        r"topk\.(exclude|zero)\.(\w+)": _check_best,
        r"visible\.(\d+)": _check_visible,
        r"static(_off)?\.(\d+)": _check_static,
    }
    kinds = {
        r"(stage1|loader)\.mv(_scale)?\.(\w+)\.(\d+)": _motion,
        r"loader\.camera\.(\w+)\.(\d+)": _camera,
        r"stage1\.res(_scale)?\.(abs|grad)\.(\d+)": _residual,
        r"stage1\.fuse\.(\w+?)(21)?\.(\d+)": _fusion,
        r"loader\.center\.(\d+)": _centre,
        r"square": _square,
        r"valid_mask": _valid,
        r"frames\.(?:off(\d+)_)?(\d+)": _frames,
    }
    for name in case.outputs:
        for pattern, compute in kinds.items():
            match = re.fullmatch(pattern, name)
            if match:
                got = compute(case, c, *match.groups())
                case.check(name, torch.from_numpy(np.array(got)))
        for pattern, judge in choices.items():
            match = re.fullmatch(pattern, name)
            if match:
                judge(case, name, *match.groups())


def motion(case: Case, t: int, compensate: Any = "median") -> oc.Energy:
    c = case.config
    return oc.motion_energy(
        case.inputs["mv"][t].numpy(),
        c["H0"],
        c["W0"],
        compensate=compensate,
        units=c["mv_unit_div"],
        percentile=c["pct"],
    )


def residual(case: Case, t: int, *, gradient: bool = False) -> oc.Energy:
    return oc.residual_energy(case.inputs["residual"][t].numpy(), gradient=gradient, percentile=case.config["pct"])


def squares(case: Case) -> np.ndarray:
    fused = [oc.fuse(motion(case, t).map, residual(case, t).map) for t in range(len(case.inputs["mv"]))]
    return np.stack([oc.squared(f, case.config["square"]) for f in fused])


def _motion(case: Case, _: dict, _kind: str, scale: str | None, compensate: str, t: str) -> Any:
    found = motion(case, int(t), compensate)
    return found.scale if scale else found.map


def _camera(case: Case, c: dict, compensate: Any, t: str) -> Any:
    moves = case.inputs["mv"][int(t)].numpy() / np.float32(c["mv_unit_div"])
    return oc.camera_motion(moves, compensate).transpose(2, 0, 1)


def _residual(case: Case, _: dict, scale: str | None, kind: str, t: str) -> Any:
    found = residual(case, int(t), gradient=kind == "grad")
    return found.scale if scale else found.map


def _fusion(case: Case, _: dict, how: Any, twice: str | None, t: str) -> Any:
    weights = (2.0, 1.0) if twice else (1.0, 1.0)
    return oc.fuse(motion(case, int(t)).map, residual(case, int(t)).map, how, weights)


def _centre(case: Case, _: dict, t: str) -> Any:
    return oc.centred(oc.fuse(motion(case, int(t)).map, residual(case, int(t)).map), CENTRE_PRIOR)


def _square(case: Case, _: dict) -> Any:
    return squares(case)


def _valid(_case: Case, c: dict) -> Any:
    return valid(c)


def valid(c: dict) -> np.ndarray:
    return oc.valid_patches(oc.letterbox(c["H0"], c["W0"], c["square"]), c["patch"])


def _check_best(case: Case, name: str, padding: Any, told: str) -> None:
    c, energy, inside = case.config, squares(case), valid(case.config)
    first: Any = FIRST[told]
    got = oc.best_patches(energy, inside, patch=c["patch"], frames=c["keep_frames_equiv"], padding=padding, first=first)
    scores = patch_sums(energy, c["patch"])
    scores[:, ~inside] = -1.0  # padding never swaps with content, whose sums are 0 or more
    must = {"none": inside & False, "content": inside, "full": inside | True}[first]
    if first != "none":
        scores[0] = -1.0
    scores[0][must] = 1e6 - np.arange(must.sum())  # and these are in order
    case.check_choice(name, torch.from_numpy(got), torch.from_numpy(scores), best_first=True)


def _check_visible(case: Case, name: str, keep: str) -> None:
    """The fixture does not say whether it handed on bytes, as the loader stores energies, or the numbers themselves."""
    patch, levels = case.config["patch"], squares(case) * 255
    found = []
    for energy in (levels, levels.astype(np.uint8)):
        got = oc.visible_indices(energy, patch, int(keep))
        found.append((len(np.setdiff1d(got, case.outputs[name].numpy())), len(found), got, energy))
    _, _, got, energy = min(found)
    _check_ascending(case, name, got, energy, ())


def _check_static(case: Case, name: str, off: str | None, keep: str) -> None:
    energy, patch = case.inputs["static"].numpy(), case.config["patch"]
    got = oc.visible_indices(energy, patch, int(keep), static=off is None)
    first = () if off else oc._some_frames(len(energy), energy[0].size // patch**2, int(keep), 4)
    _check_ascending(case, name, got, energy, first)


def _check_ascending(case: Case, name: str, got: np.ndarray, energy: np.ndarray, first: Any) -> None:
    scores = patch_sums(energy, case.config["patch"]).reshape(-1)
    scores[list(first)] = np.inf  # chosen by place: not to be swapped with anything
    case.check_choice(name, torch.from_numpy(got), torch.from_numpy(scores), best_first=False)


def patch_sums(energy: np.ndarray, patch: int) -> np.ndarray:
    """(F, h, w) float64 sums of (F, H, W)."""
    count, height, width = energy.shape
    return energy.reshape(count, height // patch, patch, width // patch, patch).sum(axis=(2, 4), dtype=np.float64)


def _frames(_case: Case, _: dict, first: str | None, count: str) -> Any:
    return np.array(oc.uniform_frames(int(count), first=int(first or 0)), np.int32)


# ---- a real clip


class _Vectors:
    """Keeps upstream's field of the wanted pictures of a decoder."""

    def __init__(self, wanted: dict[int, tuple[int, ...]], height: int, width: int) -> None:
        self.wanted, self.size = wanted, (height, width)
        self.fields: dict[int, np.ndarray] = {}

    def fed(self, number: int, packet: av.Packet) -> None:
        pass

    def shown(self, number: int, frame: av.VideoFrame) -> None:
        if number in self.wanted:
            self.fields[number] = oc.whole_pixel_vectors(exported(frame), *self.size)


def vectors_of(src: Source, ranks: list[int]) -> list[np.ndarray]:
    """The fields of these frames (in the order shown), from one run over the file."""
    limits = Limits()
    plan = plan_video(src, limits, Sampling(num_frames=limits.max_frames))
    wanted = {plan.index.order[rank]: (rank,) for rank in ranks}
    observer = _Vectors(wanted, plan.height, plan.width)
    job = DecodeJob(src, plan.stream, plan.index, plan.way, limits, None, observer, vectors=True)
    decode_plain(job, Segment(0, max(wanted), wanted))
    return [observer.fields[plan.index.order[rank]] for rank in ranks]


def run_codec_demo(case: Case) -> None:
    """Exact: frame numbers, the whole of frame 0, how many patches, and the order on canvases. Of the choice itself,
    upstream's residual pictures come from an altered FFmpeg and cannot be had: made by motion energy alone, it must
    agree with upstream's in at least LEAST_SHARE of the patches after frame 0; the share is reported."""
    c = case.config
    path = case.folder.resolve().parents[2] / CLIP
    if not path.is_file():
        raise Mismatch(f"the clip {CLIP} is not beside the golden folder, so nothing can be computed")
    with open_source(path, Limits()) as src:
        count = len(plan_video(src, Limits(), Sampling(num_frames=Limits().max_frames)).times_s)
        ids = oc.uniform_frames(count, c["T"])
        fields = vectors_of(src, sorted(set(ids)))
    case.check("frame_ids", torch.tensor(ids, dtype=torch.int32))
    height, width, size = c["H0"], c["W0"], c["square_size"]
    maps = {
        rank: oc.squared(oc.motion_energy(field, height, width).map, size)
        for rank, field in zip(sorted(set(ids)), fields, strict=True)
    }
    pad = oc.letterbox(height, width, size)
    told = c["pad_info"]
    if (pad.resize_h, pad.resize_w, pad.top, pad.left) != tuple(told[k] for k in ("Hn", "Wn", "pad_top", "pad_left")):
        raise Mismatch(f"the letterbox is {pad}, expected {told}")
    mask = oc.valid_patches(pad, c["patch"])
    if int(mask.sum()) != c["S_valid"]:
        raise Mismatch(f"{int(mask.sum())} valid patches, expected {c['S_valid']}")
    first: Any = "full" if c["keep_first_full_frame"] else "content" if c["keep_uniform_first"] else "none"
    ours = oc.best_patches(
        np.stack([maps[rank] for rank in ids]),
        mask,
        patch=c["patch"],
        frames=c["keep_frames_equiv"],
        padding=c["padding_policy"],
        first=first,
    )
    theirs = case.outputs["visidx_thw"].numpy().astype(np.int32)
    case.check("positions_thw", torch.from_numpy(oc.canvas_order(theirs).astype(np.int16)))
    _agreement(case, ours, theirs, c["S_total"] if first == "full" else 0)


def _agreement(case: Case, ours: np.ndarray, theirs: np.ndarray, must: int) -> None:
    if ours.shape != theirs.shape or not (ours[:must] == theirs[:must]).all():
        raise Mismatch(f"visidx_thw: {ours.shape} patches that begin with frame 0, expected {theirs.shape}")
    wanted = {tuple(p) for p in theirs[must:].tolist()}
    shared = len(wanted & {tuple(p) for p in ours[must:].tolist()}) / len(wanted)
    case.remark = f"{shared:.1%} of upstream's choice after frame 0 by motion energy alone (chance 20 %)"
    if shared < LEAST_SHARE:
        raise Mismatch(f"visidx_thw: only {case.remark}, at least {LEAST_SHARE:.0%} are asked")
    case.checked.add("visidx_thw")
