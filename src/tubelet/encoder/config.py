"""The shape of one packed vision transformer, as data. Every family is a value of these classes."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from tubelet.doors import door
from tubelet.errors import ConfigError
from tubelet.pixels.recipe import PixelRecipe

Act = Literal["gelu", "gelu_tanh", "quick_gelu", "silu"]
Norm = Literal["layer", "rms"]
Span = Literal["window", "frame", "item", "scene"]  # what a row attends to; each holds the one before it


@dataclass(frozen=True)
class Rope:
    """Rotary positions of the encoder; tubelet.encoder.rope has the formulas."""

    mode: Literal["onevision", "rotation"] = "onevision"  # "onevision": two angles in a pair, which its weights know
    theta: float = 10000.0  # base of the frequencies; each axis spans the whole range by itself
    split: tuple[int, int, int] = (4, 6, 6)  # shares of (t, h, w) in the angles of a head
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)  # where each axis starts in its range, in frequencies (Pixtral)
    layout: Literal["pairs", "halves"] = "pairs"  # a pair is two neighbours, or the same channel of both halves
    places: Literal["index", "centred"] = "index"  # turned by the index on the axis, or by 2 pi times the centre
    origin: int = 0  # index of the first patch of an axis (VGGT: 1); prefix tokens without angles stand at 0


@dataclass(frozen=True)
class Table:
    """Positions that are added to patches: a table of places, resized to each item's grid.

    resize "bicubic": sampled without antialiasing; "bicubic_antialias", "bilinear_antialias": with it; "corners":
    bilinear with the corners of table and grid on each other; "buckets": of the table's equal parts the one in which a
    patch begins (Idefics3), where float32 decides at their edges. A grid of the table's own size takes any other as it
    stands.
    """

    height: int  # places from top to bottom
    width: int  # places from left to right
    # "sincos": no weights
    resize: Literal["bicubic", "bicubic_antialias", "bilinear_antialias", "corners", "buckets", "sincos"]
    prefix: bool = False  # the first prefix token has a learned place as well


@dataclass(frozen=True)
class Head:
    """How one vector per item is made, where `EncoderConfig.pool` asks for it.

    "probe": a learned query attends to the rows, then a norm and an MLP with a residual sum (OneVision, SigLIP).
    "query": a learned query attends to the rows, then one matrix (AIMv2). "first": the first prefix token.
    """

    kind: Literal["probe", "query", "first"] = "probe"
    norm: Norm = "rms"  # of "probe"
    bias: bool = True  # of k and v in "query"


@dataclass(frozen=True)
class Merger:
    """A norm and a two-layer MLP over merge x merge neighbouring tokens: D -> merge^2 D -> out."""

    merge: int  # tokens along each side of what becomes one
    out: int  # channels of the result
    eps: float = 1e-6  # of the norm
    norm: Norm = "layer"
    joined: bool = False  # the norm is over the merge^2 D joined values instead of each token's D


@dataclass(frozen=True)
class EncoderConfig:
    """Everything that makes one encoder differ from another, as data. Raises ConfigError for what cannot be.

    Which layer attends to what is `spans`: names in turn, so ("frame", "scene") alternates through all layers.

        >>> EncoderConfig(64, 4, 2, 96, PixelRecipe(16), spans=("frame", "scene")).layer_spans
        ('frame', 'scene', 'frame', 'scene')
    """

    hidden: int  # D, channels of a row
    layers: int  # how many
    heads: int  # of attention; they share D evenly
    mlp: int  # channels inside each layer's MLP
    pixels: PixelRecipe  # what becomes a row
    norm: Norm = "layer"  # of every norm but those of head, mergers and qk_norm
    eps: float = 1e-6  # of every norm but those of mergers, and of those that `head_eps` and `qk_eps` say
    head_eps: float | None = None  # of the pooling head's norm; None = eps
    act: Act = "gelu"  # of the MLPs: the exact one; "quick_gelu" is x sigmoid(1.702 x)
    rope: Rope | None = Rope()  # rotary positions; None turns nothing
    embed: bool = True  # rows are pixels; False: they are `hidden` features that another encoder gave
    patch_bias: bool = False  # of the patch embedding
    pre_norm: bool = True  # a norm before the first layer, after positions are added
    post_norm: bool | Literal["pooled"] = True  # the final norm: of all tokens, of none, or only of what is pooled
    pool: bool = True  # whether one vector per item can be had; `head` says how
    merger: Merger | None = None  # fewer, wider rows at the end
    gated: bool = False  # the MLP is act(gate x) * (up x) instead of act(up x)
    qkv_bias: bool = True  # of the matrix that makes q, k and v
    key_bias: bool = True  # False: k's third of that bias counts as 0
    proj_bias: bool = True  # of the matrix after attention
    mlp_bias: bool = True  # of the MLP's matrices
    scale: bool = False  # a learned factor for each channel of what a layer adds (LayerScale)
    embed_norm: bool = False  # a norm of the patch embedding, before positions are added
    table: Table | None = None  # positions that are added
    prefix: int = 0  # learned tokens before the rows of each `prefix_per`: class token, registers, camera
    prefix_per: Literal["frame", "item"] = "item"  # of narrower spans they are a segment of their own
    prefix_first: bool = False  # the first item or frame of a scene has other learned values than the rest (VGGT)
    prefix_angles: bool = False  # prefix tokens have learned rotary angles instead of none
    spans: tuple[Span, ...] = ("item",)  # what layers attend to, in turn: layer i takes spans[i % len(spans)]
    span_frames: int = 1  # rows of time in a "frame" (OneVision attends over 4); an item's last may have fewer
    span_side: int | None = None  # patches along each side of a "window", which lies inside one row of time
    qk_norm: Norm | None = None  # a norm over the channels of each head of q and of k, before positions turn them
    qk_eps: float | None = None  # of that norm; None = eps
    head: Head = Head()  # how one vector per item is made
    deepstack: tuple[int, ...] = ()  # layers, from 0, whose output goes through a merger of its own
    deepstack_merger: Merger | None = None  # the form of those mergers

    @door
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
        if self.rope is not None and self.rope.places == "centred" and self.rope.origin:
            raise ConfigError("places of centres have no origin", expected=0, got=self.rope.origin)
        if self.eps < 0 or (self.rope is not None and self.rope.theta <= 0):
            raise ConfigError(f"eps {self.eps} and the rope's theta must not be negative")
        self._check_spans()
        if self.patch_bias and not self.embed:
            raise ConfigError("without a patch embedding there is no bias of it", expected="embed", got="patch_bias")
        if self.pool and not self.post_norm:
            raise ConfigError("the pooling head reads post-normed tokens: pool needs post_norm")
        if self.pool and self.head.kind == "first" and not self.prefix:
            raise ConfigError("pooling the first prefix token needs one", expected="prefix >= 1", got=0)
        if self.post_norm == "pooled" and not (self.pool and self.head.kind == "first"):
            raise ConfigError("only a pooled prefix token can have the final norm to itself", expected="first")
        if self.prefix_angles and not (self.prefix and self.rope):
            raise ConfigError("angles of prefix tokens need prefix tokens and a rope")
        if self.prefix_first and not self.prefix:
            raise ConfigError("other values for the first prefix tokens of a scene need prefix tokens", got=0)
        beyond = [i for i in self.deepstack if not 0 <= i < self.layers]
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

    def _check_spans(self) -> None:
        if not self.spans or any(span not in get_args(Span) for span in self.spans):
            raise ConfigError(f"a span is one of {', '.join(get_args(Span))}", expected=get_args(Span), got=self.spans)
        if self.span_frames < 1:
            raise ConfigError(f"a frame spans at least one row of time, got {self.span_frames}", got=self.span_frames)
        if "window" in self.layer_spans and self.span_side is None:
            raise ConfigError("layers that attend inside windows need their side", expected="span_side", got=None)
        if self.span_side is not None and (self.span_side < 1 or self.span_side % self.pixels.merge):
            raise ConfigError(
                f"windows of {self.span_side} patches do not hold whole blocks of {self.pixels.merge}",
                expected=self.pixels.merge,
                got=self.span_side,
            )
        # the shortest turn that says the same, so that equal encoders have equal configurations
        every = self.layer_spans
        turn = next(n for n in range(1, len(every) + 1) if all(s == every[i % n] for i, s in enumerate(every)))
        object.__setattr__(self, "spans", every[:turn])

    @cached_property
    def layer_spans(self) -> tuple[Span, ...]:
        """What each layer attends to."""
        return tuple(self.spans[i % len(self.spans)] for i in range(self.layers))

    @property
    def head_dim(self) -> int:
        """Channels of one head."""
        return self.hidden // self.heads

    @property
    def row_width(self) -> int:
        """Values of a row the encoder reads."""
        return self.pixels.width if self.embed else self.hidden

    @property
    def out(self) -> int:
        """Channels of the rows the encoder gives."""
        return self.merger.out if self.merger else self.hidden
