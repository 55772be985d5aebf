"""VGGT written as plainly as it can be: one scene at a time, dense attention, weights by their published names.

The slow twin of the packed network; from the network's description alone. Float64 works throughout.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def norm(x: Tensor, w: Weights, name: str, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)


def linear(x: Tensor, w: Weights, name: str) -> Tensor:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def turned(x: Tensor, places: Tensor) -> Tensor:
    """(H, N, K) by (N, 2) places: the first half of channels by the row, the second by the column."""
    out = []
    for half, place in zip(x.chunk(2, dim=-1), places.T, strict=True):
        n = half.shape[-1] // 2
        angle = place[:, None] * 100.0 ** (-torch.arange(n, dtype=x.dtype) / n)
        a, b = half[..., :n], half[..., n:]
        out += [a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()]
    return torch.cat(out, dim=-1)


def block(x: Tensor, w: Weights, name: str, heads: int, eps: float, places: Tensor | None = None) -> Tensor:
    """One layer over (N, D), everything sees everything."""
    n, d = x.shape
    q, k, v = linear(norm(x, w, f"{name}.norm1", eps), w, f"{name}.attn.qkv").view(n, 3, heads, -1).permute(1, 2, 0, 3)
    if places is not None:
        q, k = (turned(norm(y, w, f"{name}.attn.{m}_norm", 1e-5), places) for y, m in ((q, "q"), (k, "k")))
    scores = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)
    x = x + w[f"{name}.ls1.gamma"] * linear((scores @ v).transpose(0, 1).reshape(n, d), w, f"{name}.attn.proj")
    up = F.gelu(linear(norm(x, w, f"{name}.norm2", eps), w, f"{name}.mlp.fc1"))
    return x + w[f"{name}.ls2.gamma"] * linear(up, w, f"{name}.mlp.fc2")


def aggregate(images: Tensor, w: Weights, layers: int, heads: int, patch_layers: int) -> list[Tensor]:
    """(S, 3, H, W) normalised images of one scene -> (S, 5 + h w, 2 C) of every depth. The table must fit the grid."""
    s, _, height, width = images.shape
    h, wide = height // 14, width // 14
    own = "aggregator.patch_embed"
    kernel = w[f"{own}.patch_embed.proj.weight"]
    x = F.conv2d(images, kernel, w[f"{own}.patch_embed.proj.bias"], stride=14).flatten(2).mT
    frames = []
    for one in x:
        table = w[f"{own}.pos_embed"][0]
        y = torch.cat([w[f"{own}.cls_token"][0], one]) + table
        y = torch.cat([y[:1], w[f"{own}.register_tokens"][0], y[1:]])
        for i in range(patch_layers):
            y = block(y, w, f"{own}.blocks.{i}", heads, 1e-6)
        frames.append(norm(y, w, f"{own}.norm", 1e-6)[5:])
    tokens = []
    for i, one in enumerate(frames):
        slot = min(i, 1)
        tokens.append(torch.cat([w["aggregator.camera_token"][0, slot], w["aggregator.register_token"][0, slot], one]))
    x = torch.stack(tokens)
    grid = torch.cartesian_prod(torch.arange(h), torch.arange(wide)) + 1
    places = torch.cat([torch.zeros(5, 2, dtype=torch.int64), grid]).to(images.dtype)
    out = []
    for i in range(layers):
        x = torch.stack([block(one, w, f"aggregator.frame_blocks.{i}", heads, 1e-5, places) for one in x])
        by_frame = x
        x = block(x.flatten(0, 1), w, f"aggregator.global_blocks.{i}", heads, 1e-5, places.repeat(s, 1)).view_as(x)
        out.append(torch.cat([by_frame, x], dim=-1))
    return out


def poses(tokens: Tensor, w: Weights, layers: int, heads: int, iterations: int = 4) -> Tensor:
    """(S, D) camera tokens of one scene -> (S, 9) of the last iteration."""
    name = "camera_head"
    x = norm(tokens, w, f"{name}.token_norm", 1e-5)
    said = w[f"{name}.empty_pose_tokens"][0].expand(len(x), -1)
    total = torch.zeros(len(x), 9, dtype=x.dtype)
    for _ in range(iterations):
        shift, scale, gate = linear(
            F.silu(linear(said, w, f"{name}.embed_pose")), w, f"{name}.poseLN_modulation.1"
        ).chunk(3, -1)
        y = x + gate * (F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)
        for i in range(layers):
            y = block(y, w, f"{name}.trunk.{i}", heads, 1e-5)
        y = norm(y, w, f"{name}.trunk_norm", 1e-5)
        total = total + linear(F.gelu(linear(y, w, f"{name}.pose_branch.fc1")), w, f"{name}.pose_branch.fc2")
        said = total.detach()
    return torch.cat([total[:, :7], total[:, 7:].relu()], dim=1)
