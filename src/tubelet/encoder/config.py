"""The shape of one packed vision transformer, as data. Every family is a value of these classes."""

from dataclasses import dataclass
from typing import Literal

from tubelet.errors import ConfigError
from tubelet.pixels.recipe import PixelRecipe

Act = Literal["gelu", "gelu_tanh", "quick_gelu"]


@dataclass(frozen=True)
class Rope:
    """Rotary positions of the encoder.

    mode "onevision": the trained behaviour of OneVision-Encoder, where the two values of a pair turn by different
    angles (tubelet.encoder.rope says exactly how); weights depend on it. mode "rotation": both turn by the same angle.
    split: shares of (t, h, w) in the angles, here 4 : 6 : 6. theta: the base of the frequencies; each axis spans the
    whole range by itself.
    """

    mode: Literal["onevision", "rotation"] = "onevision"
    theta: float = 10000.0
    split: tuple[int, int, int] = (4, 6, 6)


@dataclass(frozen=True)
class Merger:
    """A LayerNorm and a two-layer MLP over merge x merge neighbouring tokens: D -> merge^2 D -> out."""

    merge: int
    out: int
    eps: float = 1e-6


@dataclass(frozen=True)
class EncoderConfig:
    """hidden, layers, heads, mlp: widths and depth. pixels: what becomes a row.

    eps: of every norm; head_eps: of the pooling head's RMSNorm, None = eps. act: "gelu" is the exact one, "quick_gelu"
    is x sigmoid(1.702 x). window: frames one attention segment spans, None = the whole item. pre_norm: a norm right
    after the patch embedding. post_norm and pool: the final norm and the attention pooling head. Raises ConfigError.
    """

    hidden: int
    layers: int
    heads: int
    mlp: int
    pixels: PixelRecipe
    norm: Literal["layer", "rms"] = "layer"
    eps: float = 1e-6
    head_eps: float | None = None
    act: Act = "gelu"
    rope: Rope = Rope()
    patch_bias: bool = False
    pre_norm: bool = True
    post_norm: bool = True
    pool: bool = True
    window: int | None = None
    merger: Merger | None = None

    def __post_init__(self) -> None:
        for name in ("hidden", "layers", "heads", "mlp"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}", got=getattr(self, name))
        if self.hidden % self.heads:
            raise ConfigError(f"{self.heads} heads do not divide hidden = {self.hidden}", got=self.hidden % self.heads)
        if self.head_dim % (2 * sum(self.rope.split)):
            unit = 2 * sum(self.rope.split)
            raise ConfigError(
                f"head dim {self.head_dim} is not a multiple of {unit}, which the {self.rope.split} split needs",
                expected=unit,
                got=self.head_dim,
            )
        if self.eps < 0 or self.rope.theta <= 0:
            raise ConfigError(f"eps {self.eps} and theta {self.rope.theta} must not be negative")
        if self.window is not None and self.window < 1:
            raise ConfigError(f"a window spans at least one frame, got {self.window}", got=self.window)
        if self.pool and not self.post_norm:
            raise ConfigError("the pooling head reads post-normed tokens: pool needs post_norm")
        if self.merger and (self.merger.merge != self.pixels.merge or self.pixels.order != "block"):
            raise ConfigError(
                f"a merger of {self.merger.merge} needs rows in block order of {self.merger.merge}",
                expected=self.merger.merge,
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
