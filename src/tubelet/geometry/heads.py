"""Heads on a geometry network's tokens: cameras by iteration, and dense maps (depth, points) by DPT.

Source: diankun-wu/Spatial-MLLM:src/qwenvl/external/vggt/heads/camera_head.py, dpt_head.py, head_act.py@9fc4738, written
from their description. Upstream's residual unit works in place, so what it adds is relu(x): weights know that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tubelet.encoder.attention import Segments, resolve
from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.layers import Layer, LayerInputs, span_of
from tubelet.errors import ShapeError
from tubelet.geometry.cameras import Size
from tubelet.pixels.recipe import PixelRecipe
from tubelet.shapes import Float

POSE = 9  # numbers of a pose encoding
PLACE = 0.1  # how much of a place is added to features


@dataclass(frozen=True)
class CameraConfig:
    """The camera head of tokens of `width` channels."""

    width: int
    layers: int = 4  # of the trunk
    heads: int = 16
    iterations: int = 4  # how often the encoding is refined

    @property
    def trunk(self) -> EncoderConfig:
        """The trunk's layers."""
        return EncoderConfig(
            *(self.width, self.layers, self.heads, 4 * self.width, PixelRecipe(14)),
            eps=1e-5,
            rope=None,
            scale=True,
            pool=False,
            embed=False,
        )


class CameraHead(nn.Module):
    """Camera tokens to pose encodings, refined from what it said before. Cameras of a scene attend to each other.

    (F, D) tokens, and how many frames each scene has -> one (F, 9) a iteration; the last counts. The gradient of an
    iteration does not go back into the one before it.
    """

    def __init__(self, config: CameraConfig) -> None:
        super().__init__()
        d = config.width
        self.iterations = config.iterations
        self.token_norm = nn.LayerNorm(d, eps=1e-5)
        self.embed_pose = nn.Linear(POSE, d)
        self.empty_pose = nn.Parameter(torch.empty(POSE))
        self.modulation = nn.Linear(d, 3 * d)
        trunk = config.trunk
        self.trunk = nn.ModuleList(Layer(trunk) for _ in range(config.layers))
        self.trunk_norm = nn.LayerNorm(d, eps=1e-5)
        self.fc1 = nn.Linear(d, d // 2)
        self.fc2 = nn.Linear(d // 2, POSE)

    def forward(self, tokens: Float[Tensor, "F D"], frames: Sequence[int]) -> tuple[Float[Tensor, "F 9"], ...]:
        segments = Segments(tuple(frames))
        if segments.total != len(tokens):
            raise ShapeError(
                f"scenes of {segments.total} frames, {len(tokens)} camera tokens",
                expected=len(tokens),
                got=segments.total,
            )
        x = self.token_norm(tokens.to(self.token_norm.weight.dtype))
        backend = resolve("auto", x.device, x.dtype)
        inputs = LayerInputs(None, None, backend, {"item": span_of(segments, backend, x.device)})
        encoding = self.empty_pose.expand(len(x), -1)
        plain = F.layer_norm(x, x.shape[1:], eps=1e-6)
        total, out = None, []
        for _ in range(self.iterations):
            shift, scale, gate = self.modulation(F.silu(self.embed_pose(encoding))).chunk(3, dim=-1)
            y = x + gate * (plain * (1 + scale) + shift)
            for layer in self.trunk:
                y = layer(y, inputs)
            change = self.fc2(F.gelu(self.fc1(self.trunk_norm(y))))
            total = change if total is None else total + change
            encoding = total.detach()  # before the field of view is made positive
            out.append(torch.cat([total[:, :7], F.relu(total[:, 7:])], dim=-1))
        return tuple(out)


# ---- dense maps


Activation = Literal["exp", "inv_log"]


@dataclass(frozen=True)
class DPTConfig:
    """A DPT head on four layers of `width` channels."""

    width: int  # channels of a token
    layers: tuple[int, int, int, int] = (4, 11, 17, 23)  # levels of the network, which it reads
    channels: tuple[int, int, int, int] = (256, 512, 1024, 1024)  # of their projections
    features: int = 256  # inside
    out: int | None = 2  # values and a confidence a pixel; None: features alone
    activation: Activation = "exp"  # of the values; "inv_log": sign(v) (exp|v| - 1)
    patch: int = 14  # pixels a side of a patch
    shrink: int = 1  # pixels a side of a place in the result
    places: bool = True  # whether sines of places are added


class ResidualUnit(nn.Module):
    """relu(x) + conv(relu(conv(relu x))): what upstream's in-place ReLU makes of x + ..."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x)
        return self.conv2(F.relu(self.conv1(x))) + x


class Fusion(nn.Module):
    """A finer map joined to a coarser one, refined and enlarged to the next size."""

    def __init__(self, features: int, *, joined: bool) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(features, features, 1)
        self.unit1 = ResidualUnit(features) if joined else None
        self.unit2 = ResidualUnit(features)

    def forward(self, x: Tensor, finer: Tensor | None, size: Sequence[int]) -> Tensor:
        if self.unit1 is not None and finer is not None:
            x = x + self.unit1(finer)
        return self.out_conv(enlarged(self.unit2(x), size))


class DPTHead(nn.Module):
    """Tokens of four layers to a map of each frame: (F, h, w, D) x 4 -> (F, H, W, out - 1) and (F, H, W) confidence.

    Memory goes with the frames of one call: at 476 x 644 about 0.3 GB of float32 a frame.
    """

    def __init__(self, config: DPTConfig) -> None:
        super().__init__()
        f = config.features
        self.config = config
        self.norm = nn.LayerNorm(config.width, eps=1e-5)
        self.projects = nn.ModuleList(nn.Conv2d(config.width, c, 1) for c in config.channels)
        a, b, _, d = config.channels
        self.resize = nn.ModuleList(
            [nn.ConvTranspose2d(a, a, 4, 4), nn.ConvTranspose2d(b, b, 2, 2), nn.Identity(), nn.Conv2d(d, d, 3, 2, 1)]
        )
        self.inward = nn.ModuleList(nn.Conv2d(c, f, 3, padding=1, bias=False) for c in config.channels)
        self.fusions = nn.ModuleList(Fusion(f, joined=i < 3) for i in range(4))
        self.conv1 = nn.Conv2d(f, f if config.out is None else f // 2, 3, padding=1)
        self.conv2 = None if config.out is None else nn.Conv2d(f // 2, 32, 3, padding=1)
        self.conv3 = None if config.out is None else nn.Conv2d(32, config.out, 1)

    def forward(self, layers: Sequence[Float[Tensor, "F h w D"]]) -> tuple[Tensor, Tensor | None]:
        """Maps and their confidence; (F, features, H, W) and None where features alone are made."""
        config = self.config
        h, w = layers[0].shape[1:3]
        whole = (h * config.patch, w * config.patch)
        maps = []
        for x, project, resize, inward in zip(layers, self.projects, self.resize, self.inward, strict=True):
            y = project(self.norm(x.to(self.norm.weight.dtype)).permute(0, 3, 1, 2))
            maps.append(inward(resize(self._placed(y, whole))))
        x = None
        for i in (3, 2, 1, 0):
            size = maps[i - 1].shape[-2:] if i else (2 * maps[0].shape[-2], 2 * maps[0].shape[-1])
            x = self.fusions[i](maps[i] if x is None else x, None if x is None else maps[i], size)
        x = enlarged(self.conv1(x), (whole[0] // config.shrink, whole[1] // config.shrink))
        x = self._placed(x, whole)
        if self.conv2 is None or self.conv3 is None:
            return x, None
        x = self.conv3(F.relu(self.conv2(x))).permute(0, 2, 3, 1)
        value, confidence = x[..., :-1], 1 + x[..., -1].exp()
        if config.activation == "exp":
            return value.exp(), confidence
        return value.sign() * torch.expm1(value.abs()), confidence

    def _placed(self, x: Tensor, image: Size) -> Tensor:
        """x, which is this call's own, with sines of places added to it: x's first half by columns, then by rows."""
        if not self.config.places:
            return x
        across, down = place_features(x.shape[2], x.shape[3], x.shape[1], image[1] / image[0])
        half = x.shape[1] // 2
        x[:, :half] += PLACE * across.to(x)[:, None, :]
        x[:, half:] += PLACE * down.to(x)[:, :, None]
        return x


def enlarged(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, with the corners of both maps on each other."""
    return F.interpolate(x, size=(int(size[0]), int(size[1])), mode="bilinear", align_corners=True)


def place_features(
    h: int, w: int, channels: int, aspect: float
) -> tuple[Float[Tensor, "half w"], Float[Tensor, "half h"]]:
    """Sines and cosines of the columns and of the rows of an image of this width over height.

    Places span the image with a diagonal of 2: x from -a (w - 1) / w to a (w - 1) / w, a = aspect / sqrt(aspect^2 + 1).
    """
    diagonal = math.sqrt(aspect * aspect + 1)
    n = channels // 4
    speed = 1.0 / 100.0 ** (torch.arange(n, dtype=torch.float64, device="cpu") / n)

    def waves(count: int, span: float) -> Tensor:
        end = span * (count - 1) / count
        angle = torch.linspace(-end, end, count, dtype=torch.float64, device="cpu")[:, None] * speed
        return torch.cat([angle.sin(), angle.cos()], dim=1).T.float()

    return waves(w, aspect / diagonal), waves(h, 1 / diagonal)
