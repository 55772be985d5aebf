"""The packed encoder against the encoders people run today, on pictures of mixed sizes.

    python benchmarks/encoder.py                  every case, all threads: results/encoder.json
    python benchmarks/encoder.py --quick          fewer layers and rounds, nothing written

Peers, from the installed transformers and timm: Qwen2-VL's tower (packed, one sdpa per picture), SigLIP2 NaFlex and
timm's NaFlexViT (padded to the longest picture, with a mask). All have the same width, depth, heads and MLP, random
weights and patch 16; Qwen2-VL's tower and its like of ours have QuickGELU and a merger, the others exact GELU.
Those two carry the same weights and must agree before anything is timed. "share of GEMM" is useful FLOPs (padding
counts as none) over time, against bare products of the same layer shapes measured in the same run.
"""

import argparse
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from harness import measure, report, save, show
from tubelet.encoder.config import EncoderConfig, Merger, Rope
from tubelet.encoder.model import Encoder
from tubelet.packed import Item, Packed, pack
from tubelet.pixels.recipe import PixelRecipe

PATCH = 16


@dataclass(frozen=True)
class Shape:
    hidden: int = 768
    heads: int = 12
    mlp: int = 3072
    layers: int = 4


# grids (h, w) in patches: 16 pictures of 256 to 1,024 tokens, and 8 of 196 to 3,969; padding wastes 2.1x and 3.4x
MIXES: dict[str, list[tuple[int, int]]] = {
    "small16": [(16, 16)] * 4 + [(16, 24), (24, 16), (12, 24), (24, 12)] * 2 + [(20, 28), (28, 20), (24, 32), (32, 32)],
    "mix8": [(14, 14), (14, 20), (20, 26), (26, 20), (28, 36), (36, 28), (24, 44), (62, 64)],
}


# mix, type, layers: deep enough that patch embedding and merger weigh little, short enough for a coffee
CASES = [("small16", "float32", 4), ("small16", "bfloat16", 2), ("mix8", "float32", 2)]


def rows_of(grids: list[tuple[int, int]], dtype: torch.dtype) -> Packed:
    items = [Item.of(1, h, w, picture=i) for i, (h, w) in enumerate(grids)]
    g = torch.Generator().manual_seed(0)
    return pack([torch.randn(i.grid.rows, 3 * PATCH**2, generator=g).to(dtype) for i in items], items, merge=2)


def tubelet_encoder(shape: Shape, *, merger: bool) -> Encoder:
    """The same tower as Qwen2-VL's: 2-D rotation, no pooling head, no final norm, 2 x 2 merger."""
    recipe = PixelRecipe(PATCH, merge=2, order="block")
    config = EncoderConfig(
        shape.hidden,
        shape.layers,
        shape.heads,
        shape.mlp,
        recipe,
        rope=Rope("rotation", split=(0, 1, 1)),
        pre_norm=False,
        post_norm=False,
        pool=False,
        act="quick_gelu" if merger else "gelu",
        merger=Merger(2, shape.hidden) if merger else None,
    )
    torch.manual_seed(0)
    return Encoder(config).eval()


def qwen_tower(shape: Shape) -> torch.nn.Module:
    from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel as Tower

    config = Qwen2VLVisionConfig(
        depth=shape.layers,
        embed_dim=shape.hidden,
        hidden_size=shape.hidden,
        num_heads=shape.heads,
        mlp_ratio=shape.mlp // shape.hidden,
        patch_size=PATCH,
        temporal_patch_size=1,
        spatial_merge_size=2,
    )
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    return Tower(config).eval()


def share_weights(encoder: Encoder, tower: torch.nn.Module) -> None:
    """Qwen2-VL's weights in ours. It turns channel i with i + K/2, we turn neighbours: q and k rows are interleaved."""
    theirs, heads = tower.state_dict(), encoder.config.heads
    interleave = torch.arange(encoder.config.head_dim).view(2, -1).T.flatten()

    def qkv(x: Tensor) -> Tensor:
        q, k, v = x.chunk(3)
        turn = [y.unflatten(0, (heads, -1))[:, interleave].flatten(0, 1) for y in (q, k)]
        return torch.cat([*turn, v])

    state = {"patch.weight": theirs["patch_embed.proj.weight"].flatten(1)}
    for i in range(encoder.config.layers):
        names = {"proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2", "norm1": "norm1", "norm2": "norm2"}
        for ours, key in names.items():
            for part in ("weight", "bias"):
                state[f"layers.{i}.{ours}.{part}"] = theirs[f"blocks.{i}.{key}.{part}"]
        for part in ("weight", "bias"):
            state[f"layers.{i}.qkv.{part}"] = qkv(theirs[f"blocks.{i}.attn.qkv.{part}"])
    for ours, key in (("norm", "ln_q"), ("fc1", "mlp.0"), ("fc2", "mlp.2")):
        for part in ("weight", "bias"):
            state[f"merger.{ours}.{part}"] = theirs[f"merger.{key}.{part}"]
    encoder.load_state_dict(state)


def padded(p: Packed) -> tuple[Tensor, Tensor, Tensor]:
    """Rows in raster order, padded: (N, L, W), keep (N, L), and the (h, w) of each picture."""
    raster = [x.view(i.grid.h // 2, i.grid.w // 2, 2, 2, -1).transpose(1, 2).reshape(len(x), -1)
              for x, i in zip(p.unpack(), p.items, strict=True)]  # fmt: skip
    x, keep = pack(raster, p.items).to_padded()
    return x, keep, torch.tensor([(i.grid.h, i.grid.w) for i in p.items])


def siglip2(shape: Shape) -> torch.nn.Module:
    from transformers import Siglip2VisionConfig, Siglip2VisionModel

    config = Siglip2VisionConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_patches=256,
        patch_size=PATCH,
        hidden_act="gelu",
        vision_use_head=False,
    )
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    return Siglip2VisionModel(config).eval()


def timm_naflex(shape: Shape) -> torch.nn.Module:
    import timm

    return timm.create_model(
        "naflexvit_base_patch16_gap",
        depth=shape.layers,
        embed_dim=shape.hidden,
        num_heads=shape.heads,
        mlp_ratio=shape.mlp / shape.hidden,
        num_classes=0,
    ).eval()


def flops(shape: Shape, p: Packed, *, merger: bool) -> float:
    """Useful FLOPs of the layers, the patch embedding and, where it runs, the merger. Padding counts as none."""
    d, rows = shape.hidden, sum(p.lengths)
    dense = 2 * rows * (4 * d * d + 2 * d * shape.mlp) * shape.layers + 2 * rows * d * p.x.shape[1]
    merging = 2 * (rows // 4) * (4 * d) * (4 * d + d) if merger else 0
    return dense + merging + shape.layers * 4 * d * sum(n * n for n in p.lengths)


def gemm_floor(shape: Shape, rows: int) -> tuple[Callable[[], object], float]:
    """One layer's four products as plain float32 F.linear, and their FLOPs."""
    d = shape.hidden
    sizes = [(d, 3 * d), (d, d), (d, shape.mlp), (shape.mlp, d)]
    pairs = [(torch.randn(rows, i), torch.randn(o, i), torch.randn(o)) for i, o in sizes]
    out = [torch.empty(rows, o) for _, o in sizes]

    def run() -> None:
        for (x, w, b), y in zip(pairs, out, strict=True):
            torch.addmm(b, x, w.t(), out=y)

    return run, float(sum(2 * rows * i * o for i, o in sizes))


def contenders(shape: Shape, grids: list[tuple[int, int]], dtype: torch.dtype) -> tuple[dict, Packed, float]:
    p = rows_of(grids, dtype)
    ours, tower = tubelet_encoder(shape, merger=True), qwen_tower(shape)
    share_weights(ours, tower)
    plain = tubelet_encoder(shape, merger=False)
    ours, tower, plain = (m.to(dtype) for m in (ours, tower, plain))
    sig, naf = siglip2(shape).to(dtype), timm_naflex(shape).to(dtype)
    x, keep, sizes = padded(p)
    coords = torch.zeros(len(p), x.shape[1], 2, dtype=torch.long)
    for i, (h, w) in enumerate(sizes.tolist()):
        coords[i, : h * w] = torch.cartesian_prod(torch.arange(h), torch.arange(w))
    error = agreement(ours(p).x, tower(p.x, grid_thw=p.grid_thw))
    naflex = {"pixel_values": x, "pixel_attention_mask": keep.int(), "spatial_shapes": sizes}
    runs = {
        "tubelet": lambda: ours(p),
        "transformers Qwen2-VL": lambda: tower(p.x, grid_thw=p.grid_thw),
        "tubelet, no merger": lambda: plain(p),
        "transformers SigLIP2 NaFlex": lambda: sig(**naflex),
        "timm NaFlexViT": lambda: naf.forward_features(x, patch_coord=coords, patch_valid=keep),
    }
    return runs, p, error


def agreement(ours: Tensor, theirs: object) -> float:
    """Relative error of our output to the peer's, ||a - b|| / ||b||."""
    peer = theirs if isinstance(theirs, Tensor) else theirs.pooler_output  # pyright: ignore
    return float((ours.float() - peer.float()).norm() / peer.float().norm())


def run(mix: str, shape: Shape, dtype: torch.dtype, rounds: int) -> dict:
    grids = MIXES[mix]
    runs, p, error = contenders(shape, grids, dtype)
    allowed = 2e-5 if dtype == torch.float32 else 2e-2
    if not error <= allowed:
        raise SystemExit(f"{mix} {dtype}: outputs differ from Qwen2-VL's by {error:.1e}, nothing is timed")
    floor, floor_flop = gemm_floor(shape, sum(p.lengths))
    times = measure({**runs, "GEMM": floor}, rounds=rounds, control="tubelet")
    rate = floor_flop / times["GEMM"].wall
    waste = len(p) * max(p.lengths) / sum(p.lengths)
    name = f"{mix}, {str(dtype).removeprefix('torch.')}, {shape.layers} layers of {shape.hidden}"
    show(f"{name}: {sum(p.lengths):,} tokens, padding x{waste:.2f}, relative error {error:.1e}", times, ours="tubelet")
    merging = ("tubelet", "tubelet (again)", "transformers Qwen2-VL")
    shares = {
        k: round(flops(shape, p, merger=k in merging) / t.wall / rate, 3) for k, t in times.items() if k != "GEMM"
    }
    print("  share of the fp32 GEMM rate:", shares, f"at {rate / 1e9:.0f} GFLOP/s")
    packed = report({k: times[k] for k in ("tubelet", "transformers Qwen2-VL", "tubelet (again)")}, ours="tubelet")
    against_padding = report(
        {k: times[k] for k in ("tubelet, no merger", "transformers SigLIP2 NaFlex", "timm NaFlexViT")},
        ours="tubelet, no merger",
    )
    return {
        name: {
            "tokens": sum(p.lengths),
            "padding": round(waste, 2),
            "relative_error": error,
            "useful_gflop": round(flops(shape, p, merger=False) / 1e9, 1),
            "gemm_gflops": round(rate / 1e9, 1),
            "share_of_gemm": shares,
            "packed": packed,
            "padded": against_padding,
        }
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two layers, three rounds, nothing written")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--mix", choices=[*MIXES], help="only this mix")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="only this type")
    parser.add_argument("--layers", type=int, help="instead of each case's own depth")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(args.threads)
    results = {}
    with torch.inference_mode():
        for mix, dtype, depth in CASES:
            if args.mix in (None, mix) and args.dtype in (None, dtype):
                layers = args.layers or (2 if args.quick else depth)
                results |= run(mix, Shape(layers=layers), getattr(torch, dtype), args.rounds)
    if not args.quick:
        print("written:", partial(save, settings=vars(args))("encoder", results).name)


if __name__ == "__main__":
    main()
