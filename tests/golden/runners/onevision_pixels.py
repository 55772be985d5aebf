"""preprocess_*: pictures in, the normalised pixels or rows upstream makes of them, with Pillow's resampler."""

import re

import torch
from torch import Tensor

from tubelet.packed import Packed
from tubelet.pixels.fit import Fit, fit
from tubelet.pixels.patchify import normalise, patchify
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.resize import pad_frames, resize_frames
from tubelet.pixels.sizes import anyres, native_round
from tubelet.reading.clip import Clip

from ..cases import Case

LLAVA_PATCH = 14  # fixed in upstream's code, whatever the model's patch size
PINPOINT = re.compile(r"\((\d+),\s*(\d+)\)")


def run_preprocess(case: Case) -> None:
    for name, want in case.outputs.items():
        match = re.fullmatch(r"(pack|clip|native|anyres)(\d+)(?:\.(hidden_states|grid_thw|grid))?", name)
        if match is None:
            continue
        kind, index, part = match[1], match[2], match[3]
        image = case.inputs[f"image{index}"]
        if kind == "pack":
            p = packing_input(image, int(case.config["patch_size"]))
            case.check(name, p.x if part == "hidden_states" else p.grid_thw)
            continue
        frames = {"clip": clip_processor, "native": native, "anyres": any_resolution}[kind](image, case)
        height, width = frames.shape[1:3]
        if part == "grid":
            case.check(name, torch.tensor([1, height // LLAVA_PATCH, width // LLAVA_PATCH], dtype=want.dtype))
        else:
            case.check(name, pixel_values(frames))


def packing_input(image: Tensor, patch: int) -> Packed:
    recipe = PixelRecipe(patch, rule="native_floor", resampler="pillow")
    return normalise(patchify([Clip(image[None].numpy(), (0.0,))], recipe), recipe)


def clip_processor(image: Tensor, case: Case) -> Tensor:
    recipe = PixelRecipe(1, rule="shortest_crop", size=int(case.config["size"]), resampler="pillow")
    return resize_frames(image[None], fit(image.shape[0], image.shape[1], recipe), resampler="pillow")


def native(image: Tensor, case: Case) -> Tensor:
    height, width = native_round(image.shape[0], image.shape[1], LLAVA_PATCH)
    return resize_frames(image[None], Fit(height, width, None, height, width), resampler="pillow")


def any_resolution(image: Tensor, case: Case) -> Tensor:
    """Pinpoints are (width, height) pairs in the case's configuration or text; else the usual ones of its size."""
    size = int(case.config.get("size", 448))
    listed = case.config.get("pinpoints") or [
        (int(w), int(h)) for w, h in PINPOINT.findall(case.meta.get("description", ""))
    ]
    pinpoints = listed or [(size, 2 * size), (2 * size, size), (2 * size, 2 * size)]
    pad = anyres(image.shape[0], image.shape[1], [(h, w) for w, h in pinpoints])
    return pad_frames(image[None], pad, resampler="pillow")


def pixel_values(frames: Tensor) -> Tensor:
    """(F, h, w, 3) uint8 as normalised [F, 3, h, w], by way of rows of one pixel each."""
    recipe = PixelRecipe(1)
    count, height, width, _ = frames.shape
    p = patchify([Clip(frames.numpy(), tuple(float(i) for i in range(count)))], recipe)
    return normalise(p, recipe).x.view(count, height, width, 3).permute(0, 3, 1, 2)
