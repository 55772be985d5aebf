"""What the page shows of a document, as bytes and plain values: nothing here is computed that the library does not.

scores     32 bytes: b"tubelet\\0", rows, budget, flags, bytes that follow (uint32, little-endian); low, high (float32)
           float32 scores of the rows there were, if the method says any
           uint32  ranks, if its scores choose at every budget: rows of a rank below the budget are kept
           bits    of the rows that are kept at this budget, the first row the lowest bit of the first byte, otherwise
           JSON    of the grids that take their place, for methods that resize, instead of bits
"""

import io
import json
import struct
from typing import Any

import numpy as np
import torch
from PIL import Image

from tubelet.errors import InputError
from tubelet.inspect.draw.cells import extent as extent_of
from tubelet.inspect.draw.cells import layers_of, panels_of
from tubelet.inspect.draw.frames import frame_at
from tubelet.inspect.draw.token_maps import principal_colours
from tubelet.inspect.draw.veil import is_page
from tubelet.language.placing.place import place
from tubelet.language.placing.rules import ONE_D, QWEN2_5_VL, QWEN2_VL, PositionRule, TokenIds
from tubelet.packed import Packed
from tubelet.packed.order import rows_in
from tubelet.reduce.methods import Choice
from tubelet.shapes import UInt8
from tubelet.web.documents import Document

MAGIC = b"tubelet\0"
HAS_SCORES, HAS_RANKS, RESIZED = 1, 2, 4  # flags
NEVER = 0xFFFFFFFF  # the rank of a row that is kept at no budget, such as one of a border
LONGEST = 2048  # side of a frame that is sent, in pixels
RULES: dict[str, PositionRule] = {"1d": ONE_D, "qwen2-vl": QWEN2_VL, "qwen2.5-vl": QWEN2_5_VL}


def about(document: Document) -> dict[str, Any]:
    """Sizes, times, grids and views of a document. Boxes are in upright pixels of the picture."""
    clip, tokens = document.clip, document.tokens
    layers = layers_of(tokens, tokens, 0)
    numbers = {id(layer): i for i, layer in enumerate(layers)}
    panels = panels_of(layers)
    return {
        "id": document.id,
        "name": document.source.name,
        "path": document.source.path,
        "again": dict(document.source.again),
        "width": clip.width,
        "height": clip.height,
        "frames": len(clip),
        "is_video": clip.is_video,
        "duration_s": clip.duration_s,
        "times_s": list(clip.times_s),
        "complete": clip.complete,
        "notes": list(clip.notes),
        "page": is_page(clip.frames[0]),
        "tokens": len(tokens.x),
        "patches": len(document.seen.patches.x),
        "items": [
            {
                "grid": list(item.grid),
                "box": list(item.box),
                "times_s": list(item.times_s),
                "frames": [frame_at(clip, time) for time in item.times_s],
                "start": tokens.starts[i],
                "rows": tokens.lengths[i],
            }
            for i, item in enumerate(tokens.items)
        ],
        "panels": [{"items": [numbers[id(layer)] for layer in p], "extent": list(extent_of(p))} for p in panels],
        "seconds": document.seen.seconds,
        "asked": {"fps": document.asked.sampling.fps, "views": document.asked.views},
    }


def frame_png(document: Document, number: int, side: int = LONGEST) -> bytes:
    """A decoded frame as PNG, no side above `side`. Raises InputError for a frame there is none of."""
    clip = document.clip
    if not 0 <= number < len(clip):
        raise InputError(f"frames count 0 to {len(clip) - 1}", limit=len(clip) - 1, got=number)
    return png_of(clip.frames[number], side)


def png_of(pixels: UInt8[np.ndarray, "H W 3"], side: int) -> bytes:
    """A picture as PNG, no side above `side`."""
    picture = Image.fromarray(pixels)
    scale = max(picture.size) / side
    if scale > 1:
        width, height = (max(1, round(n / scale)) for n in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BOX, reducing_gap=2.0)
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


def places(tokens: Packed) -> bytes:
    """(t, h, w) of each row in its own item's grid, int32."""
    return _int32(tokens.pos)


def positions(tokens: Packed, rule: str) -> bytes:
    """Position ids of each row, (T, 3) int32, of a prompt that begins with them. Raises InputError for another rule."""
    if rule not in RULES:
        raise InputError(f"a rule of positions is one of {', '.join(RULES)}", expected=tuple(RULES), got=rule[:40])
    narrow = tokens.with_x(tokens.x[:, :1].float()).to("cpu")
    prompt = torch.zeros(len(tokens.x), dtype=torch.int64)
    placed = place(narrow, prompt, TokenIds(image=0), rule=RULES[rule])
    return _int32(placed.position_ids.T)


def colours(tokens: Packed) -> tuple[bytes, float]:
    """Red, green and blue of each row along the first principal directions, and the share of the variance they hold."""
    x = tokens.x.detach().float().cpu()
    found, share = principal_colours(x, x.isfinite().all(dim=1))
    return found.tobytes(), share


def choice_bytes(tokens: Packed, choice: Choice, budget: int, *, ranks: bool) -> bytes:
    """What a method says, as the head of this file lays it out. ranks: its scores choose at every budget, and this is
    what it keeps where it may keep all: what it leaves out even then has the rank `NEVER`."""
    if choice.kept.items != tokens.items:
        grids = [{"grid": list(i.grid), "box": list(i.box), "times_s": list(i.times_s)} for i in choice.kept.items]
        told = json.dumps({"rows": len(choice.kept.x), "items": grids}).encode("utf-8")
        return _with_head(tokens, budget, RESIZED, told)
    kept = np.zeros(len(tokens.x), bool)
    kept[rows_in(tokens, choice.kept).cpu().numpy()] = True
    body, flags, scale = b"", 0, (0.0, 0.0)
    if choice.scores is not None:
        scores = choice.scores.detach().cpu().float()
        body, flags, scale = scores.numpy().astype("<f4").tobytes(), HAS_SCORES, _scale(tokens, scores)
        if ranks:
            order = torch.sort(scores, descending=True, stable=True).indices.numpy()
            order = order[kept[order]]
            found = np.full(len(tokens.x), NEVER, "<u4")
            found[order] = np.arange(len(order))
            return _with_head(tokens, budget, flags | HAS_RANKS, body + found.tobytes(), scale)
    return _with_head(tokens, budget, flags, body + np.packbits(kept, bitorder="little").tobytes(), scale)


def _scale(tokens: Packed, scores: torch.Tensor) -> tuple[float, float]:
    """The least and the greatest score as drawings have it: one number twice where they differ by rounding."""
    layers = layers_of(tokens, tokens, 0, scores)
    low, high = layers[0].scale or (0.0, 0.0)
    heats = [one.heat for one in layers if one.heat is not None]
    return (low, high) if any(bool((heat == 1.0).any()) for heat in heats) else (low, low)


def _with_head(tokens: Packed, budget: int, flags: int, body: bytes, scale: tuple[float, float] = (0.0, 0.0)) -> bytes:
    return struct.pack("<8sIIIIff", MAGIC, len(tokens.x), budget, flags, len(body), *scale) + body


def _int32(values: torch.Tensor) -> bytes:
    return values.detach().cpu().to(torch.int32).contiguous().numpy().astype("<i4").tobytes()
