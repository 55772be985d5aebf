"""What the tests of the three Qwen towers share: grids of pictures and clips, whole models, processors."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from tests.families import parity
from tests.families.parity import Outputs, Run
from tests.families.pictures import pictures
from torch import Tensor
from transformers.vision_utils import get_vision_window_index

from tubelet import Clip, Packed, load_encoder, patchify
from tubelet.pixels.patchify import normalise
from tubelet.pixels.recipe import PixelRecipe
from tubelet.weights.load import report_of

MIXED = [(1, 2, 4), (3, 4, 4), (1, 6, 2), (2, 2, 2), (1, 10, 6)]  # pictures between clips
LARGER = [(1, 16, 16), (2, 12, 20), (1, 30, 8)]
TINY: dict[str, Any] = {"depth": 3, "num_heads": 4, "patch_size": 4}
MID: dict[str, Any] = {"depth": 6, "num_heads": 8, "patch_size": 14}
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "vocab_size": 40,
    "max_position_embeddings": 64,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]},
}


def check_whole(
    model: hf.PreTrainedModel, folder: Path, prefix: str | None, shards: int, run: Run = parity.run_grid_thw
) -> None:
    """The tower out of a whole model's folder: as `save_pretrained` writes it, or with the tower's keys under `prefix`
    and the rest beside them, as older files have them. Nothing outside the tower is read."""
    parity.randomise(model.eval())
    tower: Any = model.get_submodule("model.visual")
    if prefix is None:
        model.save_pretrained(folder, max_shard_size="40KB" if shards > 1 else "1GB")
    else:
        tensors = {f"{prefix}{n}": t for n, t in tower.state_dict().items()}
        tensors |= {f"model.{n}": t for n, t in model.get_submodule("model.language_model").state_dict().items()}
        parity.write_checkpoint(folder, tensors, model.config.to_dict(), shards)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (shards > 1)
    ours = load_encoder(folder)
    report = report_of(ours)
    assert report is not None
    assert report.tensors == len(tower.state_dict())
    assert report.ignored
    rows = parity.random_rows(MIXED, ours.config)
    with torch.no_grad():
        parity.compare(parity.run_ours(ours, rows), run(tower, normalise(rows, ours.pixels), ours.config, "blocks"))


def check_rows(values: Tensor, grids: Tensor, ours: list[Clip], recipe: PixelRecipe) -> None:
    """A processor's rows and grids against ours for the same clips: the same grids, the same order within rows and
    between them, values equal to within float32's rounding of the same grey levels."""
    packed = patchify(ours, recipe)
    assert [tuple(i.grid) for i in packed.items] == [tuple(g) for g in grids.tolist()]
    mine = normalise(packed, recipe).x
    assert mine.shape == values.shape
    levels = (mine - values).abs().max().item() * max(recipe.std) * 255
    assert levels < 1e-3, levels


def check_images(processor: Any, recipe: PixelRecipe, count: int = 30) -> None:
    """Pictures of random sizes in one batch."""
    shown = list(pictures(count, seed=3, low=30, high=500))
    out = processor(images=[torch.from_numpy(x).permute(2, 0, 1) for x in shown], return_tensors="pt")
    check_rows(out["pixel_values"], out["image_grid_thw"], [Clip(x[None], (0.0,)) for x in shown], recipe)


SIDES = ((60, 90), (200, 120), (333, 250), (64, 400), (150, 150))


def check_videos(
    processor: Any,
    recipe: PixelRecipe,
    frames: tuple[int, ...] = (2, 3, 4, 7, 12),
    sides: tuple[tuple[int, int], ...] = SIDES,
) -> None:
    """Clips of several lengths and sizes, odd ones too, each by itself (a batch of one size would hide the others)."""
    rng = np.random.default_rng(5)
    for count, (height, width) in zip(frames, sides, strict=True):
        x = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
        video = torch.from_numpy(x).permute(0, 3, 1, 2)
        out = processor(videos=[video], return_tensors="pt", do_sample_frames=False)
        clip = Clip(x, tuple(float(i) for i in range(count)))
        check_rows(out["pixel_values_videos"], out["video_grid_thw"], [clip], recipe)


def run_windows(model: hf.PreTrainedModel, p: Packed, config: Any, layers: str) -> Outputs:
    """Qwen2.5-VL's tower, whose layers and last_hidden_state go window by window, back in the pack's order."""
    out = parity.run_grid_thw(model, p, config, layers)
    merge = config.pixels.merge
    index, _ = get_vision_window_index(p.grid_thw, merge, model.config.window_size, config.pixels.patch)
    back = index.argsort()

    def placed(x: Tensor) -> Tensor:
        return x.unflatten(0, (-1, merge * merge))[back].flatten(0, 1)

    return Outputs(placed(out.tokens), merged=out.merged, hidden=tuple(placed(h) for h in out.hidden))
