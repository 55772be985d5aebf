"""Projectors: rows in the encoder's width become rows in the language model's, Packed -> Packed.

    kind                what it does                                                  state_dict keys
    linear              one matrix                                                    weight bias
    mlpNx_gelu          N matrices with GELU between them                             0 2 4 ..
    mlpNx_resMx_gelu    the same, then M residual blocks                              .. k.pre_norm k.proj.0 k.proj.2
    spatial_merge       norm, merge x merge neighbours side by side, two matrices     ln_q mlp.0 mlp.2
    patch_merger        the same for rows that already stand block by block           ln_q mlp.0 mlp.2
    pixel_shuffle       merge x merge neighbours side by side, norm, two matrices     norm mlp.0 mlp.2
    merge_linear        merge x merge neighbours side by side, a matrix               weight
    soft_tokens         the mean of merge x merge neighbours, RMS norm, a matrix      norm weight
    pooler              a convolution over merge x merge neighbours, GELU, a matrix   conv_pool proj.1
    identity            nothing                                                       -

Kinds and keys are those of LLaVA's mm_projector_type, so its weights fit; pixel_shuffle is InternVL's,
merge_linear Idefics3's, soft_tokens Gemma 3's. Unlike there, grids come with the rows: any mix of sizes, pictures and
videos goes through in one call.
Source: EvolvingLMMs-Lab/OneVision-Encoder:llava_next/llava/model/multimodal_projector/builder.py@c2cd3e0.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tubelet.doors import door
from tubelet.errors import ShapeError
from tubelet.language.project.compat import in_runs, with_inferred_grids
from tubelet.language.project.config import MERGING, NORM_EPS, Compat, ProjectorConfig
from tubelet.packed import Packed
from tubelet.packed.grid import Odd
from tubelet.packed.order import require_block_order
from tubelet.packed.packed import whole
from tubelet.reduce.merge import merge, pool
from tubelet.shapes import Float


class Projector(nn.Module):
    """Packed of features -> Packed in the language model's width; the result has the weights' type.

    Raises ShapeError for rows of another width, or rows that are not floating point.
    """

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        self.config = config
        self.norm_out = nn.RMSNorm(config.out_dim, eps=NORM_EPS) if config.norm_out else None

    @door
    def forward(self, p: Packed) -> Packed:
        width = self.config.in_dim
        if p.x.shape[1] != width or not p.dtype.is_floating_point:
            raise ShapeError(
                f"this projector reads rows of {width} floating point values, got {p.x.shape[1]} of {p.dtype}",
                expected=width,
                got=p.x.shape[1],
            )
        weight = next(self.parameters(), None)
        rows = self.project(p if weight is None else p.to(dtype=weight.dtype))
        return rows if self.norm_out is None else rows.with_x(self.norm_out(rows.x))

    def project(self, p: Packed) -> Packed:
        """The rows, checked and in the weights' type, projected."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        c = self.config
        return f"{c.kind}, {c.in_dim} -> {c.out_dim}" + (f", merge={c.merge}" if c.kind in MERGING else "")


@door
def build_projector(
    kind: str,
    in_dim: int,
    out_dim: int,
    *,
    merge: int | None = None,
    odd: Odd | None = None,
    compat: Compat | None = None,
    eps: float | None = None,
    norm_out: bool = False,
) -> Projector:
    """A projector with torch's fresh weights, from rows of `in_dim` to rows of `out_dim`; kinds in the module's head.

    merge: side of the blocks that become one row, of the kinds that have such (default 2). odd: what happens to sides
    it does not divide, as in `tubelet.merge` (spatial_merge, pooler; upstream's pooler crops in silence). eps: of ln_q
    and norm (default 1e-6).
    compat: a named upstream behaviour that is wrong for most inputs and that some weights were trained with:
    "infer_hw" (spatial_merge) forgets the grids and takes the most nearly square one with as many rows (`infer_hw`),
    so 18 x 32 becomes 24 x 24; "consecutive" (patch_merger) joins rows in the order they stand, which on raster order
    are runs of one picture row and not blocks. Without it patch_merger refuses rows that are not in block order.
    Raises ConfigError for an unknown kind or an option it has no use for.

        >>> project = build_projector("spatial_merge", 64, 128)
        >>> project(tubelet.pack([torch.zeros(24, 64)], [tubelet.Item.of(1, 4, 6)]))
        Packed(T=6, D=128, float32, cpu, 1 items: [1x2x3])
    """
    config = ProjectorConfig(
        kind=kind,
        in_dim=in_dim,
        out_dim=out_dim,
        merge=(2 if kind in MERGING else 1) if merge is None else merge,
        odd="error" if odd is None else odd,
        compat=compat,
        eps=NORM_EPS if eps is None else eps,
        norm_out=norm_out,
    )
    return from_config(config)


def from_config(config: ProjectorConfig) -> Projector:
    """The projector a configuration describes, with torch's fresh weights."""
    kinds = {
        "linear": Linear,
        "spatial_merge": SpatialMerge,
        "patch_merger": PatchMerger,
        "pixel_shuffle": PixelShuffle,
        "merge_linear": MergeLinear,
        "soft_tokens": SoftTokens,
        "pooler": Pooler,
        "identity": Identity,
    }
    return kinds.get(config.kind, Mlp)(config)


# ---- the kinds


class Identity(Projector):
    """The rows themselves."""

    def project(self, p: Packed) -> Packed:
        return p


class Linear(Projector):
    """y = W x + b."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__(config)
        fresh = nn.Linear(config.in_dim, config.out_dim)
        self.weight, self.bias = fresh.weight, fresh.bias

    def project(self, p: Packed) -> Packed:
        return p.with_x(F.linear(p.x, self.weight, self.bias))


class ResidualBlock(nn.Module):
    """n = norm(x); n + W2 gelu(W1 n). The sum is with the normed rows, as the weights were trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pre_norm = nn.LayerNorm(width)
        self.proj = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, x: Float[Tensor, "T D"]) -> Float[Tensor, "T D"]:
        x = self.pre_norm(x)
        return x + self.proj(x)


class Mlp(Projector):
    """Matrices with exact GELU between them, then residual blocks; numbered as in upstream's Sequential."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__(config)
        matrices, blocks = config.mlp
        width = config.out_dim
        steps: list[nn.Module] = [nn.Linear(config.in_dim, width)]
        for _ in range(1, matrices):
            steps += [nn.GELU(), nn.Linear(width, width)]
        steps += [ResidualBlock(width) for _ in range(blocks)]
        for i, step in enumerate(steps):
            self.add_module(str(i), step)

    def project(self, p: Packed) -> Packed:
        x = p.x
        for name, step in self.named_children():
            x = step(x) if name.isdigit() else x
        return p.with_x(x)


class Merger(Projector):
    """norm -> merge^2 rows side by side -> matrix -> exact GELU -> matrix; which rows, a subclass says."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__(config)
        wide = config.in_dim * config.merge**2
        self.ln_q = nn.LayerNorm(config.in_dim, eps=config.eps)
        self.mlp = nn.Sequential(nn.Linear(wide, wide), nn.GELU(), nn.Linear(wide, config.out_dim))

    def project(self, p: Packed) -> Packed:
        merged = self.joined(p.with_x(self.ln_q(p.x)))
        return merged.with_x(self.mlp(merged.x))

    def joined(self, p: Packed) -> Packed:
        """The normed rows, merge^2 side by side."""
        raise NotImplementedError


class SpatialMerge(Merger):
    """`tubelet.merge` between norm and matrices: rows in any order, any mix of sizes, videos frame by frame."""

    def joined(self, p: Packed) -> Packed:
        if self.config.compat == "infer_hw":
            p = with_inferred_grids(p, self.config.merge)
        return merge(p, space=self.config.merge, odd=self.config.odd)


class PatchMerger(Merger):
    """merge^2 rows that follow each other become one: right for block order only, so anything else is refused."""

    def joined(self, p: Packed) -> Packed:
        group = self.config.merge**2
        if self.config.compat is None:
            require_block_order(p, self.config.merge)
            return merge(p, space=self.config.merge)
        items = tuple(in_runs(p.items[i], p.lengths[i], group, i) for i in range(len(p)))
        return whole(p.x.reshape(len(p.x) // group, group * p.x.shape[1]), items)


class PixelShuffle(Projector):
    """`tubelet.merge`, then norm -> matrix to the language model's width -> exact GELU -> matrix.

    Source: huggingface/transformers:src/transformers/models/internvl/modeling_internvl.py@v5.23.0 (pixel_shuffle,
    whose channels stand as merge's do; InternVLMultiModalProjector).
    """

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__(config)
        wide = config.in_dim * config.merge**2
        self.norm = nn.LayerNorm(wide, eps=config.eps)
        self.mlp = nn.Sequential(nn.Linear(wide, config.out_dim), nn.GELU(), nn.Linear(config.out_dim, config.out_dim))

    def project(self, p: Packed) -> Packed:
        merged = merge(p, space=self.config.merge)
        return merged.with_x(self.mlp(self.norm(merged.x)))


class MergeLinear(Projector):
    """`tubelet.merge`, then a matrix without bias. Source: as of PixelShuffle, idefics3 (Idefics3Connector)."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__(config)
        self.weight = nn.Linear(config.in_dim * config.merge**2, config.out_dim, bias=False).weight

    def project(self, p: Packed) -> Packed:
        merged = merge(p, space=self.config.merge)
        return merged.with_x(F.linear(merged.x, self.weight))


class SoftTokens(Projector):
    """Mean of the blocks -> RMS norm in float32, scaled by 1 + its weight -> matrix without bias, stored (in, out).

    What fills no block is left out. Source: huggingface/transformers:
    src/transformers/models/gemma3/modeling_gemma3.py@v5.23.0 (Gemma3MultiModalProjector).
    """

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__(config)
        self.norm = nn.RMSNorm(config.in_dim, eps=config.eps)
        nn.init.zeros_(self.norm.weight)
        self.weight = nn.Parameter(nn.Linear(config.in_dim, config.out_dim, bias=False).weight.detach().T.clone())

    def project(self, p: Packed) -> Packed:
        means = pool(p, size=self.config.merge)
        wide = torch.promote_types(means.x.dtype, torch.float32)
        normed = F.rms_norm(means.x.to(wide), (means.x.shape[1],), 1 + self.norm.weight.to(wide), self.config.eps)
        return means.with_x(normed.to(means.x.dtype) @ self.weight)


class Pooler(Projector):
    """Convolution with kernel and stride `merge` -> exact GELU -> matrix, on grids of any size, frame by frame."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__(config)
        width, side = config.out_dim, config.merge
        self.conv_pool = nn.Conv2d(config.in_dim, width, kernel_size=side, stride=side)
        self.proj = nn.Sequential(nn.GELU(), nn.Linear(width, width))

    def project(self, p: Packed) -> Packed:
        merged = merge(p, space=self.config.merge, odd=self.config.odd)
        kernel = self.conv_pool.weight.permute(0, 2, 3, 1).flatten(1)  # a merged row is (dy, dx, channel)
        return merged.with_x(self.proj(F.linear(merged.x, kernel, self.conv_pool.bias)))


# ---- orders, and what upstream takes for one
