"""`python -m tests.geometry.ledger`: the shapes of one prompt of Spatial-MLLM, step by step, as its log prints them.

16 frames of 640 x 480 through networks of the published sizes with few layers. Weights stand on torch's meta device, so
nothing is computed; every shape is one that the code makes.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

import tubelet
from tubelet.encoder.model import Encoder
from tubelet.families.catalogue import require_variant
from tubelet.geometry.fuse import Connector, fuse, gather_tubelets
from tubelet.geometry.heads import CameraConfig
from tubelet.geometry.tubelets import paired
from tubelet.geometry.vggt import SPECIAL, VGGT, vggt_config
from tubelet.language.placing.place import Placed, place
from tubelet.language.placing.prompt import expand_placeholders
from tubelet.language.placing.rules import QWEN, QWEN2_VL
from tubelet.packed import Packed, all_positions
from tubelet.reading.clip import Clip

TEXT = 59  # tokens of the log's question, vision_start and vision_end among them
Shape = list[int] | int


def ledger() -> Iterator[tuple[str, Shape]]:
    """(what the log calls it, its shape or number), in the order of the log."""
    clip = Clip(np.zeros((16, 480, 640, 3), np.uint8), tuple(float(i) for i in range(16)))
    _, tower = require_variant("qwen2_5_vl_3b_vision")
    budget = {"rule": "smart", "min_pixels": 293_216, "max_pixels": 324_576, "max_video_pixels": None}
    tower = replace(tower, layers=2, spans=("window", "item"), pixels=replace(tower.pixels, **budget))
    network = vggt_config(layers=1, patch_layers=1, camera=CameraConfig(2048, layers=1))
    with torch.device("meta"):
        encoder, vggt, connector = Encoder(tower), VGGT(network), Connector(2048, 2048)
    frames = tubelet.patchify([clip], replace(network.pixels, **budget))
    t, h, w = frames.items[0].grid
    yield "video_tchw", [t, 3, h * 14, w * 14]
    pixels = tubelet.patchify([clip], tower.pixels)
    yield "pixel_values_videos", list(pixels.x.shape)
    with torch.no_grad():
        tokens = encoder(pixels.to("meta"))
        yield "n_video_tokens", len(tokens.x)
        found = vggt.run(frames.to("meta"), keep=[-1])
        rows, special = found.kept[0], found.special[0]
        yield "spatial_embeds", list(torch.cat([special, rows.x.view(t, h * w, -1)], dim=1).shape)
        yield "patch_start_idx", SPECIAL
        yield "camera_encs", [len(found.poses), *found.poses[-1].shape]
        merged = gather_tubelets(rows, [paired(clip.times_s)])
        yield "merged", list(merged.x.shape)
        yield "video_embeds", list(tokens.x.shape)
        yield "video_grid_thw", list(pixels.items[0].grid)
        fused = fuse(tokens, connector(merged))
    yield "fused_embeds", list(fused.x.shape)
    seq = placed(fused)
    yield "inputs_embeds", list(seq.inputs_embeds[None].shape)
    yield "position_ids", list(seq.position_ids[:, None].shape)
    yield "position_ids of a generated token", list(seq.positions.decode().shape)


def placed(fused: Packed) -> Placed:
    """The prompt, with rows of zeros where the fused ones go."""
    words = [7] * (TEXT - 2)
    prompt = expand_placeholders([*words, QWEN.start, QWEN.video, QWEN.end], [len(fused.x)], QWEN)
    rows = Packed(torch.zeros(fused.x.shape), all_positions(fused.items), fused.items, fused.lengths)
    return place(rows, torch.tensor(prompt.ids), QWEN, rule=QWEN2_VL)


if __name__ == "__main__":
    for name, shape in ledger():
        print(f"{name}: {shape}")
