"""No foreign exception leaves the package: every public door, one hostile argument at a time.

What may come back is a value, a TubeletError, or a TypeError for an argument of the wrong type.
"""

import io
import math
import random
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from tests.geometry.rooms import room
from tests.language.vlm.tiny_speakers import llama
from tests.weights.tiny_models import random_encoder, tiny_config

import tubelet
import tubelet.inspect
import tubelet.language
import tubelet.reduce
from tubelet.encoder.config import EncoderConfig
from tubelet.errors import TubeletError
from tubelet.geometry.cameras import Cameras
from tubelet.geometry.export import write_colmap, write_ply
from tubelet.geometry.look import SceneFrames, frames_of_clips, look_at
from tubelet.geometry.network import load_network
from tubelet.geometry.vggt import VGGT
from tubelet.inspect.budget.plan import Downstream
from tubelet.inspect.draw.scene import scene_sheet
from tubelet.language.placing.rules import QWEN2_5_VL, TokenIds
from tubelet.language.vlm.scheme import Scheme
from tubelet.reduce.methods import Settings
from tubelet.weights.convert import convert


class RaisingError(Exception):
    """What a hostile object raises: no library catches it by its class."""


class Raises:
    """An object whose every attribute, call, length and comparison raises."""

    def __getattribute__(self, name: str) -> Any:
        raise RaisingError(name)

    def _no(self, *_: object, **__: object) -> Any:
        raise RaisingError

    __call__ = __len__ = __iter__ = __getitem__ = __bool__ = __eq__ = __lt__ = __int__ = __float__ = __index__ = _no  # type: ignore[assignment]
    __hash__ = __str__ = __repr__ = __fspath__ = _no  # type: ignore[assignment]


def closed_file() -> io.BytesIO:
    file = io.BytesIO(b"\xff\xd8\xff")
    file.close()
    return file


def broken_picture() -> Image.Image:
    """One whose pixels cannot be decoded."""
    file = io.BytesIO()
    Image.effect_noise((64, 64), 9.0).save(file, "PNG")
    return Image.open(io.BytesIO(file.getvalue()[:200]))


def closed_picture() -> Image.Image:
    picture = Image.new("RGB", (4, 4))
    picture.close()
    return picture


HOSTILE: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "object": object,
    "raising": Raises,
    "-1": lambda: -1,
    "huge": lambda: 10**30,
    "nan": lambda: math.nan,
    "inf": lambda: math.inf,
    "true": lambda: True,
    "empty text": str,
    "long text": lambda: "x" * 5000,
    "NUL": lambda: "a\0b",
    "bytes": lambda: b"\0\1",
    "empty list": list,
    "empty dict": dict,
    "nested": lambda: [[[None]]],
    "texts": lambda: ["a", "b"],
    "negative": lambda: (-1, -1, -1),
    "infinite": lambda: (math.nan, math.inf),
    "huge ints": lambda: [10**30, 10**30],
    "lambda": lambda: lambda *_: None,
    "class": lambda: int,
    "path": lambda: Path("/no/such/place"),
    "no rows": lambda: torch.zeros(0),
    "no axes": lambda: torch.tensor(1.0),
    "rank 5": lambda: torch.zeros(1, 2, 1, 2, 1),
    "complex": lambda: torch.zeros(2, 3, dtype=torch.complex64),
    "bool": lambda: torch.zeros(2, 3, dtype=torch.bool),
    "meta": lambda: torch.zeros(6, 3, device="meta"),
    "sparse": lambda: torch.zeros(6, 3).to_sparse(),
    "strided": lambda: torch.zeros(3, 12)[:, ::2].t(),
    "NaN rows": lambda: torch.full((6,), math.nan),
    "objects": lambda: np.array([None, "x"], dtype=object),
    "array": lambda: np.zeros((2, 2, 2), np.float16)[::-1],
    "closed file": closed_file,
    "broken picture": broken_picture,
    "closed picture": closed_picture,
    "empty pack": lambda: tubelet.pack([], []),
    "clip": lambda: clip(),
}


class Door(NamedTuple):
    """A call that works, in pieces: each argument is replaced by hostile ones in turn."""

    call: Callable[..., object]
    args: Mapping[str, Any]  # by name


def clip() -> Any:
    return tubelet.Clip(np.zeros((1, 32, 48, 3), np.uint8), (0.0,))


@cache
def encoder() -> Any:
    return random_encoder(tiny_config("packing"))


@cache
def vlm() -> Any:
    e = encoder()
    width = llama().config.hidden_size
    projector = tubelet.language.build_projector("linear", e.config.hidden, width)
    return tubelet.VLM(e, llama(), Scheme(TokenIds(image=-200), pixels=e.pixels), projector=projector)


@cache
def network() -> VGGT:
    return load_network("vggt_tiny")


@cache
def seen() -> SceneFrames:
    return frames_of_clips([clip()], fit="square", side=28)


def patches() -> Any:
    return tubelet.patchify([clip()], encoder().pixels)


def rows(width: int = 4) -> Any:
    return tubelet.pack([torch.zeros(6, width)], [tubelet.Item.of(1, 2, 3)])


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 48)).save(file, "PNG")
    return file.getvalue()


IDS = TokenIds(image=-200)


@cache
def saved(folder: Path) -> Path:
    return tubelet.save_encoder(encoder(), folder / "saved")


def doors(folder: Path) -> dict[str, Door]:
    out, model = folder / "out", saved(folder)
    item, ids = tubelet.Item.of(1, 2, 3), torch.tensor([1, *[-200] * 6, 2])
    reading = {"fps": None, "num_frames": 1, "times_s": None, "limits": tubelet.Limits(), "isolate": "never"}
    reading |= {"background": (1, 2, 3), "hdr": "tonemap"}
    projector = tubelet.language.build_projector("linear", 4, 4)
    tubelet.save_projector(projector, folder / "mm_projector.safetensors")
    rows().save(folder / "p.safetensors")
    pixels = encoder().pixels
    select = {"p": rows(), "scores": torch.arange(6.0), "budget": 3, "coverage": 1, "coverage_share": 0.5}
    cameras = Cameras(torch.eye(4)[None, :3], torch.eye(3)[None], (8, 8), "a world")
    place_seen = room(1, (14, 14))
    shown = {"clip": clip(), "item": patches().items[0], "patch": pixels.patch, "max_side": 500}
    table: dict[str, tuple[Any, dict[str, Any]]] = {
        "read": (tubelet.read, {"sources": [png()], **reading, "animation": False, "on_error": "raise", "workers": 1}),
        "probe": (tubelet.probe, {"source": png(), "limits": tubelet.Limits()}),
        "load_patches": (tubelet.load_patches, {"sources": [png()], "recipe": pixels, **reading, "workers": 1}),
        "read_sparse": (tubelet.read_sparse, {"source": folder / "none.mp4", "recipe": pixels, "budget": 4, **reading}),
        "patchify": (tubelet.patchify, {"clips": [clip()], "recipe": pixels, "views": None}),
        "plan": (tubelet.plan, {"sources": (64, 48), "what": pixels, "after": Downstream(), "views": None}),
        "Clip": (tubelet.Clip, {"frames": np.zeros((1, 8, 8, 3), np.uint8), "times_s": (0.0,)}),
        "Grid": (tubelet.Grid, {"t": 1, "h": 2, "w": 3}),
        "Item": (tubelet.Item, {"grid": item.grid, "times_s": (0.0,), "picture": 0, "box": item.box}),
        "Item.of": (tubelet.Item.of, {"t": 1, "h": 2, "w": 3, "picture": 0}),
        "Limits": (tubelet.Limits, {"max_pixels": 5, "max_bytes": 5}),
        "PixelRecipe": (tubelet.PixelRecipe, {"patch": 14, "rule": "native_floor", "merge": 1, "max_pixels": 9999}),
        "EncoderConfig": (EncoderConfig, {"hidden": 64, "layers": 1, "heads": 2, "mlp": 64, "pixels": pixels}),
        "Packed": (tubelet.Packed, {"x": rows().x, "pos": rows().pos, "items": (item,), "lengths": (6,)}),
        "pack": (tubelet.pack, {"rows": [rows().x], "items": [item], "merge": 1}),
        "concat": (tubelet.concat, {"packs": [rows(), rows()], "renumber": True}),
        "with_x": (rows().with_x, {"x": rows().x}),
        "to": (rows().to, {"device": "cpu", "dtype": torch.float64}),
        "equal": (rows().equal, {"other": rows()}),
        "keep": (rows().keep, {"rows": torch.tensor([0, 2]), "lengths": [2]}),
        "reorder": (rows().reorder, {"order": [0]}),
        "split": (rows().split, {"counts": [1]}),
        "save": (rows().save, {"path": folder / "p.safetensors", "tensors": {"y": rows().x}, "metadata": {"a": "b"}}),
        "load": (tubelet.Packed.load, {"path": folder / "p.safetensors"}),
        "merge": (tubelet.merge, {"p": rows(), "space": 1, "time": 1, "odd": "error"}),
        "pool": (tubelet.pool, {"p": patches(), "size": 1, "mode": "average"}),
        "select": (tubelet.select, {**select, "always": None, "per": "picture", "indices": False}),
        "choose": (
            tubelet.reduce.choose,
            {"name": "uniform", "inputs": tubelet.reduce.Inputs(rows()), "budget": 3, "settings": Settings()},
        ),
        "Inputs": (tubelet.reduce.Inputs, {"tokens": rows(), "text": None, "attention": None, "keys": None}),
        "place": (tubelet.place, {"p": rows(), "input_ids": ids, "token_ids": IDS, "embed": torch.nn.Embedding(9, 4)}),
        "place masks": (tubelet.place, {"p": rows(), "input_ids": ids, "token_ids": IDS, "attention_mask": None}),
        "expand": (tubelet.language.expand_placeholders, {"input_ids": [1, -200], "counts": [6], "token_ids": IDS}),
        "TokenIds": (TokenIds, {"image": -200, "video": -201}),
        "rope_index": (
            tubelet.language.rope_index,
            {
                "input_ids": torch.tensor([1, 5, 5]),
                "token_ids": TokenIds(image=5),
                "rule": QWEN2_5_VL,
                "image_grid_thw": torch.tensor([[1, 2, 4]]),
                "merge": 2,
            },
        ),
        "build_projector": (
            tubelet.language.build_projector,
            {"kind": "linear", "in_dim": 4, "out_dim": 4, "merge": None, "odd": None, "eps": None},
        ),
        "projector": (projector.forward, {"p": rows()}),
        "save_projector": (
            tubelet.save_projector,
            {"projector": projector, "path": folder / "mm_projector.safetensors"},
        ),
        "load_projector": (tubelet.load_projector, {"source": folder / "mm_projector.safetensors", "kind": None}),
        "load_encoder": (tubelet.load_encoder, {"source": model, "config": None, "dtype": None, "device": "cpu"}),
        "untrained": (tubelet.untrained, {"variant": encoder().config, "seed": 0}),
        "save_encoder": (tubelet.save_encoder, {"encoder": encoder(), "folder": out, "fmt": None, "overwrite": True}),
        "convert": (convert, {"source": model, "out": out, "to": "standard", "drop": (), "overwrite": True}),
        "encoder": (encoder().forward, {"p": patches()}),
        "features": (encoder().features, {"p": patches()}),
        "hidden_states": (encoder().hidden_states, {"p": patches(), "only": [0]}),
        "pooled": (encoder().pooled, {"tokens": encoder()(patches())}),
        "VLM": (
            tubelet.VLM,
            {"encoder": encoder(), "lm": llama(), "scheme": vlm().scheme, "projector": vlm().projector},
        ),
        "vlm.encode": (vlm().encode, {"p": patches()}),
        "vlm.ready": (
            vlm().ready,
            {"rows": vlm().encode(patches()), "input_ids": torch.tensor([[1, *[-200] * patches().lengths[0]]])},
        ),
        "VLM.from_pretrained": (tubelet.VLM.from_pretrained, {"source": model}),
        "contact_sheet": (tubelet.inspect.contact_sheet, {**shown, "max_frames": 2}),
        "draw_grid": (tubelet.inspect.draw_grid, {**shown, "row": 0}),
        "draw_packed": (tubelet.inspect.draw_packed, {"p": rows(), "clips": [clip()], "max_side": 500}),
        "draw_tokens": (
            tubelet.inspect.draw_tokens,
            {"p": rows(), "clips": [clip()], "names": ["a"], "like": tubelet.inspect.Point(0, 1, 1), "max_side": 500},
        ),
        "show": (rows().show, {"clips": None, "max_side": 500}),
        "TokenFile.load": (tubelet.TokenFile.load, {"path": folder / "p.safetensors"}),
        "Cameras": (Cameras, {"world_to_cam": cameras.world_to_cam, "K": cameras.K, "size": (8, 8), "world": "a"}),
        "write_ply": (write_ply, {"path": folder / "a.ply", "points": torch.zeros(2, 3), "colours": None}),
        "frames_of_clips": (frames_of_clips, {"clips": [clip()], "fit": "square", "side": 28, "most": 9}),
        "look_at": (look_at, {"model": network(), "seen": seen(), "keep": 1, "by": "space", "points": "depth"}),
        "Scene.cloud": (place_seen.cloud, {"share": 0.5}),
        "Scene.save": (place_seen.save, {"folder": out / "s", "cloud": None, "overwrite": True, "also": None}),
        "scene_sheet": (scene_sheet, {"scene": place_seen, "cloud": None, "max_frames": 1}),
        "write_colmap": (write_colmap, {"folder": folder / "c", "cameras": cameras, "names": ["a"], "points": None}),
    }
    return {name: Door(*door) for name, door in table.items()}


def foreign(door: Door, **changed: Any) -> Exception | None:
    """What a call raised that it may not raise."""
    try:
        with torch.no_grad():
            door.call(**{**door.args, **changed})
    except (TubeletError, TypeError):
        return None
    except Exception as e:  # noqa: BLE001 # that is what is looked for
        return e
    return None


@pytest.mark.usefixtures("as_in_production")
@pytest.mark.parametrize("every", [40, pytest.param(1, marks=pytest.mark.slow)])
def test_no_foreign_exception_leaves_a_door(every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One call of `every`, chosen by seed, of parts of the table in CI."""
    monkeypatch.chdir(tmp_path)
    chosen = random.Random(0)
    found = []
    for name, door in doors(tmp_path).items():
        for argument in door.args:
            for kind, make in HOSTILE.items():
                if chosen.randrange(every):
                    continue
                if argument == "embed" and kind == "class":  # what a caller's function raises is the caller's
                    continue
                if (error := foreign(door, **{argument: make()})) is not None:
                    found.append(f"{name}({argument} = {kind}): {type(error).__name__}: {str(error)[:100]}")
    assert not found, "\n".join([f"{len(found)} foreign exceptions", *found])
