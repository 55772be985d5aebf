"""`encode` as sentence-transformers has it, for pictures and clips: inputs in, one vector each out, order kept."""

import os
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from tubelet.encoder.model import Encoder
from tubelet.encoder.pool import segment_sum
from tubelet.errors import ConfigError, InputError
from tubelet.packed import Packed
from tubelet.pixels.inputs import is_one, listed
from tubelet.pixels.recipe import UNBUDGETED
from tubelet.pixels.stream import MAX_INPUTS, stream
from tubelet.reading.job import ReadJob
from tubelet.reading.limits import Limits
from tubelet.reading.sampling import Sampling
from tubelet.weights.load import load_encoder


class ImageEmbedder:
    """An encoder that turns each picture or clip into one vector.

    encoder: an `Encoder`, or what `load_encoder` takes. pooling: "head" is the encoder's own: its pooling head or its
    class token (of a clip, the mean over frames), "mean" the mean of an item's tokens. max_pixels: of one picture or
    frame, larger ones are reduced; None is the encoder's own rule, which for OneVision keeps files at their full size,
    and attention costs the square of that: a photo of 5 megapixels takes a CPU hundreds of times as long as one of
    448 x 448. Batches are packed: sizes may differ, nothing is padded, and a vector does not depend on its neighbours.
    Raises ConfigError for "head" where the encoder cannot pool and for max_pixels where its rule has no such budget.

        >>> embedder = ImageEmbedder(tubelet.untrained("llava_vit_packing_small"))
        >>> embedder.encode(["receipt.png", np.zeros((64, 96, 3), np.uint8)], normalize_embeddings=True).shape
        (2, 384)
    """

    def __init__(
        self,
        encoder: Encoder | str | os.PathLike[str],
        *,
        pooling: Literal["head", "mean"] = "head",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        max_pixels: int | None = None,
    ) -> None:
        if not isinstance(encoder, Encoder):
            encoder = load_encoder(encoder, device=device or "cpu", dtype=dtype)
        elif device is not None or dtype is not None:
            encoder = encoder.to(device, dtype)
        if pooling not in ("head", "mean"):
            raise ConfigError("pooling is head or mean", expected=("head", "mean"), got=pooling)
        if pooling == "head" and not encoder.can_pool:
            raise ConfigError(
                "this encoder has no pooling head; pooling='mean' takes the mean", expected="mean", got="head"
            )
        if max_pixels is not None and encoder.pixels.rule in UNBUDGETED:
            raise ConfigError(f"the rule {encoder.pixels.rule} has no budget; max_pixels means nothing to it")
        self.encoder, self.pooling = encoder, pooling
        self.pixels = encoder.pixels if max_pixels is None else replace(encoder.pixels, max_pixels=max_pixels)

    @property
    def dimension(self) -> int:
        """Channels of a vector."""
        return self.encoder.config.hidden if self.pooling == "head" else self.encoder.config.out

    def encode(
        self,
        images: Any,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
        *,
        fps: float | None = None,
        num_frames: int | None = None,
        limits: Limits | None = None,
    ) -> Any:
        """(N, D) float32 array of the vectors of N inputs, in their order; (D,) for one input that is not in a list.

        images: paths, bytes, file objects, Pillow pictures, uint8 arrays and tensors, `Clip`s, in any mixture; a 4-D
        array is one clip. convert_to_tensor: a tensor on the encoder's device, in its type, instead; with
        convert_to_numpy=False and no convert_to_tensor, a list of N tensors. normalize_embeddings: length 1 each (a
        zero vector stays zero). fps, num_frames: which frames of video files. Packs of inputs are decoded
        and encoded, bounded by their rows (`tubelet.pixels.stream`); batch_size: and to so many inputs, which changes
        vectors by no more than rounding. The bar is drawn on standard error. No gradients; training or eval mode of the
        encoder does not matter.
        Raises what reading and resizing raise, naming the item by its place in `images`.
        """
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}", limit=1, got=batch_size)
        items = listed(images)
        job = ReadJob(limits or Limits(), Sampling(fps, num_frames))
        vectors: list[Tensor] = []
        console = Console(stderr=True, quiet=not show_progress_bar)  # rich 14 ends a hidden bar with a line
        with Progress(console=console, disable=not show_progress_bar) as bar, torch.inference_mode():
            task = bar.add_task("encode", total=len(items))
            ahead = self.encoder.patch.weight.device.type != "cpu"
            for loaded in stream(items, self.pixels, job, max_inputs=batch_size or MAX_INPUTS, ahead=ahead):
                vectors.append(self._vectors(loaded.packed))
                bar.advance(task, len(loaded.sources))
        weight = self.encoder.patch.weight
        whole = torch.cat(vectors) if vectors else weight.new_empty(0, self.dimension)
        whole = F.normalize(whole.float(), dim=1).to(whole.dtype) if normalize_embeddings else whole.clone()
        out: Tensor | np.ndarray | list[Tensor] = whole
        if not convert_to_tensor:
            out = whole.float().cpu().numpy() if convert_to_numpy else list(whole)
        return out[0] if is_one(images) else out

    def _vectors(self, packed: Packed) -> Tensor:
        rows = packed.to(self.encoder.patch.weight.device)
        if self.pooling == "mean":
            return mean_of_items(self.encoder(rows))
        pooled = self.encoder.features(rows).pooled
        assert pooled is not None  # `can_pool`, checked above
        return pooled


def mean_of_items(p: Packed) -> Tensor:
    """(N, D) means of each item's rows, summed in float32; zero for an item without rows."""
    lengths = p.cu_seqlens.diff().long()
    return (segment_sum(p.x.float(), lengths) / lengths.clamp(min=1).unsqueeze(1)).to(p.dtype)
