"""The shape of one packed vision transformer, as data. Every family is a value of these classes."""

from dataclasses import dataclass
from typing import Literal

from tubelet.errors import ConfigError
from tubelet.pixels.recipe import PixelRecipe

Act = Literal["gelu", "gelu_tanh", "quick_gelu", "silu"]
Norm = Literal["layer", "rms"]


@dataclass(frozen=True)
class Rope:
    """Rotary positions of the encoder.

    mode "onevision": the trained behaviour of OneVision-Encoder, where the two values of a pair turn by different
    angles (tubelet.encoder.rope says exactly how); weights depend on it. mode "rotation": both turn by the same angle.
    theta: the base of the frequencies; each axis spans the whole range by itself. split: shares of (t, h, w) in the
    angles, here 4 : 6 : 6. shift: how far along its range each axis starts, in frequencies (Pixtral's w: 0.5).
    layout: which two channels of a head are a pair, neighbours or the same place in both halves. places: what is
    turned by, the row's index on the axis, or for "centred" 2 pi times its patch's centre, the picture being -1 .. 1.
    """

    mode: Literal["onevision", "rotation"] = "onevision"
    theta: float = 10000.0
    split: tuple[int, int, int] = (4, 6, 6)
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    layout: Literal["pairs", "halves"] = "pairs"
    places: Literal["index", "centred"] = "index"


@dataclass(frozen=True)
class Table:
    """Positions that are added to patches: a learned table of height x width places, resized to each item's grid.

    resize "bicubic": sampled without antialiasing; "bicubic_antialias", "bilinear_antialias": with it; "corners":
    bilinear with the corners of table and grid on each other. A grid of the table's own size takes it as it stands.
    "sincos" has no weights: sin and cos of w, then of h. prefix: the first prefix token has a learned place as well.
    """

    height: int
    width: int
    resize: Literal["bicubic", "bicubic_antialias", "bilinear_antialias", "corners", "sincos"]
    prefix: bool = False


@dataclass(frozen=True)
class Local:
    """Attention inside windows of side x side patches of a frame, in all layers but `full` (numbers from 0)."""

    side: int
    full: tuple[int, ...]


@dataclass(frozen=True)
class Head:
    """How one vector per item is made, where `EncoderConfig.pool` asks for it.

    "probe": a learned query attends to the rows, then a norm and an MLP with a residual sum (OneVision, SigLIP).
    "query": a learned query attends to the rows, then one matrix (AIMv2); bias: of its k and v. "first": the first
    prefix token.
    """

    kind: Literal["probe", "query", "first"] = "probe"
    norm: Norm = "rms"
    bias: bool = True


@dataclass(frozen=True)
class Merger:
    """A norm and a two-layer MLP over merge x merge neighbouring tokens: D -> merge^2 D -> out.

    joined: the norm is taken over the merge^2 D joined values instead of each token's D.
    """

    merge: int
    out: int
    eps: float = 1e-6
    norm: Norm = "layer"
    joined: bool = False


@dataclass(frozen=True)
class EncoderConfig:
    """hidden, layers, heads, mlp: widths and depth. pixels: what becomes a row.

    eps: of every norm; head_eps: of the pooling head's norm, None = eps. act: "gelu" is the exact one, "quick_gelu" is
    x sigmoid(1.702 x); gated: the MLP is act(gate x) * (up x) instead of act(up x). rope: None turns nothing. table:
    positions that are added. window: frames one attention segment spans, None = the whole item. local: windows inside
    a frame. prefix: learned tokens before the rows of every segment (class token first, then registers); prefix_angles:
    they have learned rotary angles. embed_norm: a norm of the patch embedding before positions are added; pre_norm: one
    after. post_norm: the final norm, of all tokens or only of what is pooled. scale: a learned factor for each channel
    of what a layer adds. merger: fewer, wider rows at the end; deepstack: numbers (from 0) of layers whose output goes
    through a merger of its own, of the form `deepstack_merger`. Raises ConfigError.
    """

    hidden: int
    layers: int
    heads: int
    mlp: int
    pixels: PixelRecipe
    norm: Norm = "layer"
    eps: float = 1e-6
    head_eps: float | None = None
    act: Act = "gelu"
    rope: Rope | None = Rope()
    patch_bias: bool = False
    pre_norm: bool = True
    post_norm: bool | Literal["pooled"] = True
    pool: bool = True
    window: int | None = None
    merger: Merger | None = None
    gated: bool = False
    qkv_bias: bool = True
    key_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True
    scale: bool = False
    embed_norm: bool = False
    table: Table | None = None
    prefix: int = 0
    prefix_angles: bool = False
    local: Local | None = None
    head: Head = Head()
    deepstack: tuple[int, ...] = ()
    deepstack_merger: Merger | None = None

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "heads", "mlp"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}", got=getattr(self, name))
        if self.hidden % self.heads:
            raise ConfigError(f"{self.heads} heads do not divide hidden = {self.hidden}", got=self.hidden % self.heads)
        if self.rope is not None and self.head_dim % (2 * sum(self.rope.split)):
            unit = 2 * sum(self.rope.split)
            raise ConfigError(
                f"head dim {self.head_dim} is not a multiple of {unit}, which the {self.rope.split} split needs",
                expected=unit,
                got=self.head_dim,
            )
        if self.rope is not None and self.rope.mode == "onevision" and self.rope.layout == "halves":
            raise ConfigError("the onevision mode turns neighbours", expected="pairs", got="halves")
        if self.eps < 0 or (self.rope is not None and self.rope.theta <= 0):
            raise ConfigError(f"eps {self.eps} and the rope's theta must not be negative")
        if self.window is not None and self.window < 1:
            raise ConfigError(f"a window spans at least one frame, got {self.window}", got=self.window)
        if self.pool and not self.post_norm:
            raise ConfigError("the pooling head reads post-normed tokens: pool needs post_norm")
        if self.pool and self.head.kind == "first" and not self.prefix:
            raise ConfigError("pooling the first prefix token needs one", expected="prefix >= 1", got=0)
        if self.post_norm == "pooled" and not (self.pool and self.head.kind == "first"):
            raise ConfigError("only a pooled prefix token can have the final norm to itself", expected="first")
        if self.prefix_angles and not (self.prefix and self.rope):
            raise ConfigError("angles of prefix tokens need prefix tokens and a rope")
        if self.prefix and self.local:
            raise ConfigError("prefix tokens would stand in every window: prefix and local exclude each other")
        if self.local is not None and (self.local.side < 1 or self.local.side % self.pixels.merge):
            raise ConfigError(
                f"windows of {self.local.side} patches do not hold whole blocks of {self.pixels.merge}",
                expected=self.pixels.merge,
                got=self.local.side,
            )
        beyond = [i for i in (*self.deepstack, *(self.local.full if self.local else ())) if not 0 <= i < self.layers]
        if beyond:
            raise ConfigError(f"layers count 0..{self.layers - 1}, got {beyond[0]}", limit=self.layers, got=beyond[0])
        if bool(self.deepstack) != (self.deepstack_merger is not None):
            raise ConfigError("deepstack needs both the layers and the form of their mergers")
        for merger in (self.merger, self.deepstack_merger):
            if merger and (merger.merge != self.pixels.merge or self.pixels.order != "block"):
                raise ConfigError(
                    f"a merger of {merger.merge} needs rows in block order of {merger.merge}",
                    expected=merger.merge,
                    got=(self.pixels.merge, self.pixels.order),
                )

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.hidden // self.heads

    @property
    def out(self) -> int:
        """Channels of the rows the encoder gives."""
        return self.merger.out if self.merger else self.hidden
