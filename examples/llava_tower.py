"""A LLaVA-style model's eyes: tower and projector over any mix of pictures and clips, in one packed forward.

python examples/llava_tower.py
"""

from dataclasses import replace

import torch

import tubelet
from tubelet.integrations.llava import VisionTower, encode_images

LLM_WIDTH = 896
encoder = tubelet.untrained("llava_vit_packing_small")  # random weights: the shape of a model, none of its sense
tower = VisionTower(encoder, select_layer=-2, select_feature="patch", merge=2)
projector = tubelet.language.build_projector("spatial_merge", tower.hidden_size, LLM_WIDTH)

# As LLaVA's code calls them: tensors in, one tensor of tokens for each of them out.
pictures = [torch.randn(3, 224, 224), torch.randn(3, 96, 448), torch.randn(3, 4, 128, 128)]  # the last is a clip
with torch.inference_mode():
    features, h, w = tower(pictures, return_spatial_dims=True)
    tokens = encode_images(tower, projector, pictures)
for picture, rows, height, width, out in zip(pictures, features, h, w, tokens, strict=True):
    frames = picture.shape[1] if picture.ndim == 4 else 1
    print(f"{frames} frame{'s'[: frames > 1]} of {height} x {width} patches: {len(rows)} features, {len(out)} tokens")
    assert len(rows) == frames * height * width == 4 * len(out)

# The same from files, with the place and the time of every token kept.
recipe = replace(encoder.pixels, merge=2)  # sides become multiples of a merged token
clips = tubelet.read(["examples/receipt.png", "examples/walk.mp4"], fps=1.0)
with torch.inference_mode():
    packed = projector(tower.features(tubelet.patchify(clips, recipe)))
print(packed)
assert packed.x.shape[1] == LLM_WIDTH
assert packed.items[1].times_s == (0.0, 1.0, 2.0, 3.0, 4.0)
