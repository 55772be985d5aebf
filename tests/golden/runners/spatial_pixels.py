"""Sizes and pixels of Spatial-MLLM's frames: what Qwen's tower and, unnormalised, VGGT are given."""

import torch
from torch import Tensor

from tubelet import Packed, patchify
from tubelet.errors import InputError
from tubelet.geometry.frames import size_frames
from tubelet.pixels.recipe import CLIP_MEAN, CLIP_STD, PixelRecipe
from tubelet.pixels.sizes import smart_resize_compat
from tubelet.reading.clip import Clip

from ..cases import Case

PATCH, TEMPORAL, MERGE = 14, 2, 2


def run_smart_resize(case: Case) -> None:
    """Every size upstream gives. What it refuses (a side below one factor) has a size here, and counts as refused."""
    factor = case.config["factor"]
    want, got = case.outputs["h_w"], []
    for (height, width, least, most), told in zip(case.inputs["h_w_min_max"].tolist(), want.tolist(), strict=True):
        try:
            size = smart_resize_compat(height, width, factor, least, most)
        except InputError:
            size = (-1, -1)
        refused = told == [-1, -1] and min(height, width) < factor
        got.append(told if refused else list(size))
    case.check("h_w", torch.tensor(got))


def pixels_of(p: Packed) -> Tensor:
    """The frames of uint8 rows in block order, (T, 3, H, W) in 0..1, written out."""
    frames = []
    for rows, item in zip(p.unpack(), p.items, strict=True):
        t, h, w = item.grid
        x = rows.view(t, h // MERGE, w // MERGE, MERGE, MERGE, 3, TEMPORAL, PATCH, PATCH)
        x = x.permute(0, 6, 5, 1, 3, 7, 2, 4, 8).reshape(t * TEMPORAL, 3, h * PATCH, w * PATCH)
        frames.append(x / 255)
    return torch.cat(frames)


def run_preprocess(case: Case) -> None:
    """One clip, or pictures, which upstream gives twice in time."""
    video = "video_thwc_u8" in case.inputs
    frames = case.inputs["video_thwc_u8" if video else "images_hwc_u8"].numpy()
    clips = (
        [Clip(frames, tuple(float(i) for i in range(len(frames))))]
        if video
        else [Clip(f[None], (0.0,)) for f in frames]
    )
    recipe = PixelRecipe(
        PATCH, "smart", temporal=TEMPORAL, merge=MERGE, order="block", resampler="pillow",
        min_pixels=case.config["min_pixels"], max_pixels=case.config["max_pixels"],
    )  # fmt: skip
    p = patchify(clips, recipe)
    mean, std = (torch.tensor(v)[:, None] for v in (CLIP_MEAN, CLIP_STD))
    kind = "video" if video else "image"
    rows = ((p.x.unflatten(1, (3, -1)) / 255 - mean) / std).flatten(1)
    case.check("pixel_values_videos" if video else "pixel_values", rows)
    case.check(f"{kind}_grid_thw", p.grid_thw)
    case.check(f"{kind}_tchw", pixels_of(p))


def run_vggt_load(case: Case) -> None:
    """VGGT's own loaders. The square's corners are those of the picture, and its sizes."""
    frames = case.inputs["hwc_u8"].numpy()[None]
    for name, how in (("crop", "crop"), ("pad", "pad"), ("sa", "upright"), ("square", "square")):
        found = size_frames(frames, how, side=case.outputs["square_shape"][-1].item())
        images = torch.from_numpy(found.frames.copy()).permute(0, 3, 1, 2) / 255
        case.check(f"{name}_shape", torch.tensor(images.shape))
        case.check(f"{name}_sub4", images[:, :, ::4, ::4])
        case.check(f"{name}_mean", images.mean())
        if how == "square":
            case.check("square_coords", torch.tensor([[*found.content, *frames.shape[2:0:-1]]]))
