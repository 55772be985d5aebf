"""Files to packed tokens, a file of them, and back.

python examples/encode.py
"""

import torch

import tubelet

encoder = tubelet.untrained("llava_vit_packing_small")  # random weights: the shape of a model, none of its sense
clips = tubelet.read(["examples/receipt.png", "examples/walk.mp4"], fps=1.0)
for clip in clips:
    print(clip)

patches = tubelet.patchify(clips, encoder.pixels)
with torch.inference_mode():
    tokens = encoder(patches)
    vectors = encoder.pooled(tokens)  # one for each item
print(patches)
print(tokens)

tokens.save("tokens.safetensors", {"pooled": vectors})
again = tubelet.Packed.load("tokens.safetensors")
assert again.equal(tokens)
for item, rows in zip(again.items, again.unpack(), strict=True):
    print(
        f"grid {tuple(item.grid)}, {len(rows)} tokens of {rows.shape[1]}, {item.times_s[0]:g}..{item.times_s[-1]:g} s"
    )
