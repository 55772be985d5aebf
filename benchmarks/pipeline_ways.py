"""What benchmarks/pipeline.py times: ways from a list of files to tokens, ours and others', on towers of one shape.

A way is made once, in a process of its own, and then takes lists of paths. Tokens are counted and let go: where they go
is not measured. All have the same sizes of picture, the same frames of a clip, and torch with a thread for each core.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Barrier
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tubelet.encoder.model import Encoder
from tubelet.inspect.speed.encoders import relative_error
from tubelet.inspect.speed.towers import TOWERS, Shape, pair
from tubelet.pixels.recipe import HALF, PixelRecipe
from tubelet.pixels.stream import stream
from tubelet.reading.job import ReadJob
from tubelet.reading.sampling import Sampling
from tubelet.scale.encode import encode_pack

FRAMES = 16  # of each clip
PATCHES = 256  # of a picture, for SigLIP2
MOST_PIXELS = 256 * 28 * 28  # of a picture or frame, for Qwen2.5-VL
LEAST_FRAME = 128 * 28 * 28
BATCH = 16  # files that a peer encodes at a time
PACK_ROWS = 4_096  # of ours
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
Way = Callable[[Sequence[str]], int]  # paths -> how many tokens they are


@dataclass(frozen=True)
class Case:
    """A tower and its type. peer: the end of its name in tubelet.inspect.speed.towers."""

    peer: str
    shape: Shape
    dtype: str = "float32"

    @property
    def windows(self) -> bool:
        """Whether it is Qwen2.5-VL."""
        return self.peer == "Qwen2.5-VL"

    def networks(self) -> tuple[Encoder, Any]:
        """Ours and the peer's, with the same weights."""
        ours, peer = pair(next(t for t in TOWERS if t.peer.endswith(self.peer)), self.shape)
        dtype = getattr(torch, self.dtype)
        return ours.to(dtype), peer.to(dtype)


# ---- ours


def recipe_of(case: Case, encoder: Encoder) -> PixelRecipe:
    recipe = encoder.pixels
    if not case.windows:
        return recipe
    assert recipe.clips is not None
    return replace(recipe, max_pixels=MOST_PIXELS, clips=replace(recipe.clips, max_pixels=MOST_PIXELS))


JOB = ReadJob(sampling=Sampling(num_frames=FRAMES))


def tubelet(case: Case, *, ahead: bool = False, max_rows: int = PACK_ROWS) -> Way:
    encoder = case.networks()[0]
    recipe, how = recipe_of(case, encoder), {"max_rows": max_rows, "ahead": ahead}

    def run(paths: Sequence[str]) -> int:
        made = (encode_pack(one.packed, encoder, "cpu") for one in stream(paths, recipe, JOB, **how))
        return sum(len(one.tokens.x) for one in made)

    return run


def tubelet_reading(case: Case) -> Way:
    """Reading alone."""
    encoder = case.networks()[0]
    recipe = recipe_of(case, encoder)
    return lambda paths: sum(len(one.packed.x) for one in stream(paths, recipe, JOB, max_rows=PACK_ROWS))


# ---- what others make of a file


def frames_of(path: str) -> Any:
    """(F, 3, H, W) or (F, H, W, 3) frames of a clip, by transformers' loader of the faster kind that there is: the
    middles of equal parts, as `Sampling(num_frames=...)` takes them."""
    from transformers.utils import is_torchcodec_available
    from transformers.video_utils import load_video

    def middles(metadata: Any, **_: Any) -> np.ndarray:
        return ((np.arange(FRAMES) + 0.5) * metadata.total_num_frames / FRAMES).astype(int)

    backend = "torchcodec" if is_torchcodec_available() else "pyav"
    return load_video(path, backend=backend, sample_indices_fn=middles)[0]


def is_clip(path: str) -> bool:
    return path.endswith(".mp4")


class Siglip2:
    """transformers' processor and SigLIP2 NaFlex tower: every picture padded to as many patches as one may have."""

    def __init__(self, case: Case) -> None:
        from transformers.models.siglip2.image_processing_siglip2 import Siglip2ImageProcessor

        self.tower = case.networks()[1]
        self.processor = Siglip2ImageProcessor(patch_size=case.shape.patch, max_num_patches=PATCHES)

    def made(self, paths: Sequence[str]) -> dict[str, Tensor]:
        """Of pictures, or of one clip."""
        if is_clip(paths[0]):
            frames = torch.as_tensor(frames_of(paths[0]))
            chosen: Any = list(frames if frames.shape[1] == 3 else frames.permute(0, 3, 1, 2))
        else:
            chosen = list(paths)
        return dict(self.processor(chosen, return_tensors="pt"))

    def joined(self, made: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.cat([one[name] for one in made]) for name in made[0]}

    def tokens(self, made: dict[str, Tensor]) -> Tensor:
        return self.tower(**made).last_hidden_state[made["pixel_attention_mask"].bool()]


class Qwen:
    """transformers' processors and Qwen2.5-VL tower, which packs as we do."""

    def __init__(self, case: Case) -> None:
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
        from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

        self.tower, self.dtype = case.networks()[1], getattr(torch, case.dtype)
        self.pictures = Qwen2VLImageProcessor(size={"shortest_edge": 56 * 56, "longest_edge": MOST_PIXELS})
        size = {"shortest_edge": LEAST_FRAME, "longest_edge": MOST_PIXELS}
        self.clips = Qwen2VLVideoProcessor(size=size, cap_pixels_per_frame=False)

    def made(self, paths: Sequence[str]) -> dict[str, Tensor]:
        if is_clip(paths[0]):
            out = self.clips(frames_of(paths[0]), return_tensors="pt")
            return {"rows": out["pixel_values_videos"], "grid": out["video_grid_thw"]}
        out = self.pictures(list(paths), return_tensors="pt")
        return {"rows": out["pixel_values"], "grid": out["image_grid_thw"]}

    def joined(self, made: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.cat([one[name] for one in made]) for name in made[0]}

    def tokens(self, made: dict[str, Tensor]) -> Tensor:
        return self.tower(made["rows"].to(self.dtype), grid_thw=made["grid"]).pooler_output


class Timm:
    """timm's transforms and NaFlexViT, with the collator it is trained with."""

    def __init__(self, case: Case) -> None:
        from timm.data.naflex_dataset import NaFlexCollator
        from timm.data.transforms_factory import create_transform

        self.tower, self.dtype = replace(case, peer="NaFlexViT").networks()[1], getattr(torch, case.dtype)
        how: Any = {"is_training": False, "naflex": True, "patchify": True, "interpolation": "bilinear"}
        how |= {"patch_size": case.shape.patch, "max_seq_len": PATCHES, "mean": HALF, "std": HALF}
        self.transform, self.collate = create_transform(**how), NaFlexCollator(PATCHES)

    def made(self, paths: Sequence[str]) -> list[dict[str, Tensor]]:
        return [self.transform(picture) for path in paths for picture in self._pictures(path)]

    def _pictures(self, path: str) -> Iterator[Any]:
        from PIL import Image

        if not is_clip(path):
            yield Image.open(path).convert("RGB")
            return
        for frame in np.asarray(frames_of(path)):
            yield Image.fromarray(frame if frame.shape[2] == 3 else frame.transpose(1, 2, 0))

    def joined(self, made: Sequence[list[dict[str, Tensor]]]) -> dict[str, Tensor]:
        return self.collate([(one, 0) for some in made for one in some])[0]

    def tokens(self, made: Any) -> Tensor:
        made = self.joined([made]) if isinstance(made, list) else made
        patches, valid = made["patches"].to(self.dtype), made["patch_valid"]
        out = self.tower.forward_features(patches, patch_coord=made["patch_coord"], patch_valid=valid)
        return out["patches"][:, self.tower.num_prefix_tokens :][valid]


Peer = Siglip2 | Qwen | Timm


# ---- in which arrangement


def some(paths: Sequence[str], count: int) -> Iterator[Sequence[str]]:
    """So many pictures at a time, clips one by one."""
    pictures = [path for path in paths if not is_clip(path)]
    yield from (pictures[i : i + count] for i in range(0, len(pictures), count))
    yield from ([path] for path in paths if is_clip(path))


def in_batches(peer: Peer, count: int) -> Way:
    return lambda paths: sum(len(peer.tokens(peer.made(few))) for few in some(paths, count))


def by_threads(peer: Peer) -> Way:
    """Files are made ready by one-thread workers while others are encoded."""

    def run(paths: Sequence[str]) -> int:
        threads, started = torch.get_num_threads(), Barrier(CORES + 1)
        with ThreadPoolExecutor(CORES, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for _ in range(CORES):
                pool.submit(started.wait)
            started.wait()
            torch.set_num_threads(threads)  # of this thread and of the matrix library
            total, left, coming = 0, iter(paths), deque[Future[Any]]()
            while True:
                while len(coming) < 2 * BATCH and (path := next(left, None)) is not None:
                    coming.append(pool.submit(peer.made, [path]))
                if not coming:
                    return total
                ready = [coming.popleft().result() for _ in range(min(BATCH, len(coming)))]
                total += len(peer.tokens(peer.joined(ready)))

    return run


def reading_alone(peer: Peer) -> Way:
    """What stands before the tower, in batches."""
    return lambda paths: sum(len(list(peer.made(few))) for few in some(paths, BATCH))


class Files(torch.utils.data.Dataset[Any]):
    """Each path made ready."""

    def __init__(self, peer: Peer, paths: Sequence[str]) -> None:
        self.peer, self.paths = peer, paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Any:
        return self.peer.made([self.paths[index]])


def by_loader(peer: Peer, workers: int) -> Way:
    """Files are made ready by processes while others are encoded."""

    def run(paths: Sequence[str]) -> int:
        how: Any = {"batch_size": BATCH, "num_workers": workers, "collate_fn": peer.joined}
        loader = torch.utils.data.DataLoader(Files(peer, paths), **how)
        return sum(len(peer.tokens(made)) for made in loader)

    return run


def _arranged(name: str, peer: Callable[[], Peer]) -> dict[str, Callable[[], Way]]:
    return {
        f"{name}, one by one": lambda: in_batches(peer(), 1),
        f"{name}, batches": lambda: in_batches(peer(), BATCH),
        f"{name}, reading alone": lambda: reading_alone(peer()),
        f"{name}, threads": lambda: by_threads(peer()),
        f"{name}, 1 process": lambda: by_loader(peer(), 1),
        f"{name}, {CORES} processes": lambda: by_loader(peer(), CORES),
    }


def ways_of(case: Case) -> dict[str, Callable[[], Way]]:
    """Every way by its name, ours first; each is made where it is run."""
    ours: dict[str, Callable[[], Way]] = {
        "tubelet": lambda: tubelet(case),
        "tubelet, reading ahead": lambda: tubelet(case, ahead=True),
        "tubelet, packs twice as large": lambda: tubelet(case, max_rows=2 * PACK_ROWS),
        "tubelet, reading alone": lambda: tubelet_reading(case),
    }
    if case.windows:
        return ours | _arranged("transformers", lambda: Qwen(case))
    return ours | _arranged("transformers", lambda: Siglip2(case)) | _arranged("timm", lambda: Timm(case))


def difference(case: Case, paths: Sequence[str]) -> float:
    """The largest relative error between our tokens of a file and transformers'; their counts are equal."""
    encoder, peer = case.networks()[0], Qwen(case) if case.windows else Siglip2(case)
    worst = 0.0
    for path in paths:
        [loaded] = stream([path], recipe_of(case, encoder), JOB)
        ours, theirs = encode_pack(loaded.packed, encoder, "cpu").tokens.x, peer.tokens(peer.made([path]))
        assert ours.shape == theirs.shape, (path, ours.shape, theirs.shape)
        worst = max(worst, relative_error(ours, theirs))
    return worst
