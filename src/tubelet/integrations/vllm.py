"""Embeddings as vLLM takes them: `multi_modal_data` of `LLM.generate`, content parts of its chat API, one file between.

Experimental: it has never run in vLLM's engine, only against the interfaces of one release.

    qwen2_vl     image_embeds (T, D)  image_grid_thw (N, 3)      video_embeds, video_grid_thw
    qwen2_5_vl   the same                                        and second_per_grid_ts (M,)
    qwen3_vl     image_embeds (T, D (1 + L)): deepstack behind   and timestamps, a list of seconds for each video
    llava        image_embeds (N, L, D), every item with L rows

The server runs with `--enable-mm-embeds`, its own language model and no tower of ours; with
`--limit-mm-per-prompt '{"image": 0, "video": 0}'` it does not even load its own. It takes whole grids only (LLaVA's
excepted), because it counts placeholders from image_grid_thw, and it counts positions itself; `tubelet.integrations.
sglang` sends positions too. `register` is what vLLM calls when it loads plugins.

Source: vllm-project/vllm:vllm/model_executor/models/qwen2_vl.py, qwen2_5_vl.py, qwen3_vl.py, llava.py,
vllm/multimodal/parse.py, vllm/renderers/chat_utils@v0.33.0. The interfaces are recorded in
tests/integrations/servers/vllm.json; nothing here imports vLLM but `register`.
"""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tubelet.errors import InputError, ShapeError, UnsafeFile
from tubelet.integrations import served
from tubelet.integrations.served import Kind, Payload
from tubelet.language.vlm.features import VisualRows
from tubelet.packed import Packed
from tubelet.packed.file import replace_tensors
from tubelet.packed.header import open_regular, read_header

Model = Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava"]
MODELS: tuple[Model, ...] = get_args(Model)
FORMAT = "tubelet-vllm-1"
_EVEN_S = 1e-4  # rows of time whose spacing differs by less are evenly sampled; containers round to milliseconds
TRANSFORMERS = (5, 23)  # what `tubelet.integrations.transformers.model` is written for


def multi_modal_data(
    rows: Packed | VisualRows,
    model: Model,
    *,
    kinds: Sequence[Kind] | None = None,
    timestamps: Sequence[Sequence[float] | None] | None = None,
    merge: int = 2,
) -> Payload:
    """`multi_modal_data` for one prompt: {"image": ..., "video": ...} with the items of each in their order.

    rows: what `VLM.encode` or a tower with its merger gives, in the language model's width. kinds: "image" or "video"
    for each item; without it an item with several rows of time is a video. timestamps: for qwen3_vl, the seconds of
    each row of time of every video, None for images, as `tubelet.language.vlm.chat.timestamps` makes them; the server
    writes them into the prompt. merge: patches a side that became one row, the model's spatial_merge_size. The prompt
    holds one placeholder an item; the server repeats it. For llava an item of any kind is an image of as many rows as
    are left, equally many for all: the server stacks images it works on at one time. Tensors are on the host, without
    their graph, rows in raster order; no copy where they are so already.
    Raises: ConfigError for another model; AlignmentError naming an item that lost rows; InputError for uneven times of
    a qwen2_5_vl video (vLLM counts one step for all its rows of time), or timestamps that are missing or miscounted;
    ShapeError for rows that are pixels or deepstack packs of other rows.

        >>> p = tubelet.pack([torch.ones(6, 8), torch.ones(4, 8)], [tubelet.Item.of(1, 2, 3), tubelet.Item.of(2, 1, 2)])
        >>> data = multi_modal_data(p, "qwen2_5_vl")
        >>> data["image"]["image_grid_thw"], data["video"]["second_per_grid_ts"]
        (tensor([[1, 4, 6]]), tensor([1.]))
    """
    served.require_model(model, MODELS, "vLLM")
    p = served.joined(rows)
    served.require_features(p)
    p = served.in_raster_order(p)
    if model == "llava":
        return {"image": _stacked(p)}
    served.require_whole(p, "vLLM counts placeholders from whole grids")
    each = served.kinds_of(p, kinds)
    data: Payload = {}
    for kind in ("image", "video"):
        some, numbers = served.of_kind(p, each, kind)
        if some is not None:
            data[kind] = {f"{kind}_embeds": served.on_host(some.x), f"{kind}_grid_thw": served.patch_grids(some, merge)}
            if kind == "video":
                data[kind] |= _seconds(some, numbers, model, timestamps)
    return data


def content_parts(data: Mapping[str, Any], *, merge: int = 2) -> list[dict[str, Any]]:
    """The items of `multi_modal_data` as content parts of a chat message, images first, tensors in base64.

    A part is {"type": "image_embeds", "image_embeds": ...}: a string for llava, for the others {"image_embeds":
    string, "image_grid_thw": string}, and alike for videos. The strings are npy files, which vLLM tells from pickles by
    their first bytes; npy has no bfloat16, so such rows are sent in float32 (exact, twice the bytes) and the server
    casts them back. Put the parts where the pictures stand between the parts of text: several images follow the order
    of the parts, and videos theirs. merge: as in `multi_modal_data`. Cost: 4/3 of the rows' bytes.
    Raises ShapeError where rows and grids differ.

        >>> p = tubelet.pack([torch.ones(6, 8)], [tubelet.Item.of(1, 2, 3)])
        >>> part, = content_parts(multi_modal_data(p, "qwen2_vl"))
        >>> part["type"], sorted(part["image_embeds"])
        ('image_embeds', ['image_embeds', 'image_grid_thw'])
    """
    parts: list[dict[str, Any]] = []
    for kind, fields in data.items():
        name = f"{kind}_embeds"
        for one in _one_by_one(kind, fields, merge):
            body = npy(one) if isinstance(one, Tensor) else {key: npy(value) for key, value in one.items()}
            parts.append({"type": name, name: body})
    return parts


def npy(x: Tensor) -> str:
    """A tensor as an npy file in base64, the form vLLM reads without unpickling; bfloat16 becomes float32."""
    with io.BytesIO() as buffer:
        values = served.on_host(x)
        np.save(buffer, (values.float() if values.dtype == torch.bfloat16 else values).numpy(), allow_pickle=False)
        return base64.b64encode(buffer.getvalue()).decode("ascii")


# ---- files


def save(path: str | os.PathLike[str], data: Mapping[str, Any]) -> None:
    """Write `multi_modal_data` as one safetensors file whose tensors have vLLM's own names.

    A server without tubelet reads it with safetensors alone: image_embeds, image_grid_thw, video_embeds,
    video_grid_thw, second_per_grid_ts; timestamps of all videos stand end to end, video_grid_thw[:, 0] of each. llava's
    image_embeds has three axes. Whole or not at all. Raises RunError when it cannot be
    written, InputError where another kind of file stands.

        >>> p = tubelet.pack([torch.ones(6, 8)], [tubelet.Item.of(1, 2, 3)])
        >>> save("rows.safetensors", multi_modal_data(p, "qwen2_vl"))
        >>> load("rows.safetensors")["image"]["image_embeds"].shape
        torch.Size([6, 8])
    """
    tensors: dict[str, Tensor] = {}
    for kind, fields in data.items():
        for name, value in (fields if isinstance(fields, Mapping) else {f"{kind}_embeds": fields}).items():
            flat = (
                value if isinstance(value, Tensor) else torch.cat([torch.tensor(v, dtype=torch.float64) for v in value])
            )
            tensors[name] = served.on_host(flat).clone()
    replace_tensors(path, tensors, {"format": FORMAT}, lambda old: old.metadata.get("format") == FORMAT)


def load(path: str | os.PathLike[str]) -> Payload:
    """What `save` wrote, as `multi_modal_data` gave it.

    Raises InputError when there is no such file, UnsafeFile when it is damaged, not one of these files, or its names
    or timestamps do not belong together.
    """
    source = Path(path).name
    try:
        open_regular(Path(path)).close()  # a pipe would be waited for
        with safe_open(str(path), framework="pt") as f:
            read_header(Path(path))  # refuses a name that stands twice
            form = (f.metadata() or {}).get("format")
            if form != FORMAT:
                raise UnsafeFile("not embeddings for vLLM", source=source, expected=FORMAT, got=form)
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118 - not a mapping
    except OSError as e:
        raise InputError("the file cannot be opened", source=source) from e
    except SafetensorError as e:
        raise UnsafeFile("the file is damaged", source=source) from e
    if set(tensors) == {"image_embeds"}:
        return {"image": tensors["image_embeds"]}
    data: Payload = {}
    for kind in ("image", "video"):
        fields = {name: x for name, x in tensors.items() if name.startswith(kind)}
        if not fields:
            continue
        grid = fields.get(f"{kind}_grid_thw")
        if set(fields) != {f"{kind}_embeds", f"{kind}_grid_thw"} or grid is None or grid.ndim != 2:
            raise UnsafeFile(f"{kind}_embeds and {kind}_grid_thw belong together", source=source, got=sorted(fields))
        data[kind] = fields
    if "video" in data:
        if "second_per_grid_ts" in tensors:
            data["video"]["second_per_grid_ts"] = tensors["second_per_grid_ts"]
        if "timestamps" in tensors:
            counts = data["video"]["video_grid_thw"][:, 0].tolist()
            if sum(counts) != len(tensors["timestamps"]):
                raise UnsafeFile("timestamps and grids differ", source=source, expected=sum(counts))
            data["video"]["timestamps"] = [part.tolist() for part in tensors["timestamps"].split(counts)]
    return data


# ---- the steps


def _stacked(p: Packed) -> Tensor:
    """(N, L, D), one image an item. Raises InputError naming an item with other than the first one's rows."""
    for i, length in enumerate(p.lengths):
        if length != p.lengths[0] or not length:
            raise InputError(
                f"{length} rows where the first item has {p.lengths[0]}; vLLM stacks LLaVA's images, so select or pool "
                "all to one budget",
                item=i,
                expected=p.lengths[0],
                got=length,
            )
    return served.on_host(p.x).view(len(p), p.lengths[0], -1)


def _seconds(p: Packed, numbers: Sequence[int], model: Model, timestamps: Sequence[Any] | None) -> Payload:
    """What the model's class asks about the time of videos, besides their grids; numbers: the items' in the call."""
    if model == "qwen2_5_vl":
        steps = [_step(item.times_s, number) for item, number in zip(p.items, numbers, strict=True)]
        return {"second_per_grid_ts": torch.tensor(steps, dtype=torch.float32, device="cpu")}
    if model != "qwen3_vl":
        return {}
    told: list[list[float]] = []
    for item, number in zip(p.items, numbers, strict=True):
        each = timestamps[number] if timestamps is not None and number < len(timestamps) else None
        if each is None or len(each) != item.grid.t:
            raise InputError(
                f"a qwen3_vl video of {item.grid.t} rows of time needs as many timestamps",
                item=number,
                expected=item.grid.t,
                got=None if each is None else len(each),
            )
        told.append([float(s) for s in each])
    return {"timestamps": told}


def _step(times_s: Sequence[float], number: int) -> float:
    """Seconds between two rows of time, 1 for a single row. Raises InputError where they differ."""
    if len(times_s) < 2:
        return 1.0
    step = (times_s[-1] - times_s[0]) / (len(times_s) - 1)
    if any(abs(b - a - step) > _EVEN_S for a, b in pairwise(times_s)):
        raise InputError(
            "its rows of time are not evenly spaced, and vLLM counts one step for all of a video",
            item=number,
            expected=step,
            got=tuple(times_s[:8]),
        )
    return step


def _one_by_one(kind: str, fields: Any, merge: int) -> list[Any]:
    """The fields of each item: a tensor for llava, else a dict of rows, grid (3,), seconds () or timestamps (t,)."""
    if isinstance(fields, Tensor):
        return list(fields)
    grids = fields[f"{kind}_grid_thw"]
    whole = len(fields[f"{kind}_embeds"])
    sizes = grids.prod(dim=1) // merge**2
    if int(sizes.sum()) != whole:
        raise ShapeError(f"{whole} rows for grids of {int(sizes.sum())}", expected=int(sizes.sum()), got=whole)
    items: list[Any] = []
    for i, rows in enumerate(fields[f"{kind}_embeds"].split(sizes.tolist())):
        one = {f"{kind}_embeds": rows, f"{kind}_grid_thw": grids[i]}
        if "second_per_grid_ts" in fields:
            one["second_per_grid_ts"] = fields["second_per_grid_ts"][i]
        if "timestamps" in fields:
            one["timestamps"] = torch.tensor(fields["timestamps"][i], dtype=torch.float64, device="cpu")
        items.append(one)
    return items


# ---- the plugin


def register() -> bool:
    """What vLLM calls in each of its processes (entry point `vllm.general_plugins`): True where the tower was told of.

    It tells transformers' AutoConfig, AutoModel and AutoImageProcessor of tubelet's towers, so that a folder that names
    one is read in a vLLM process too. It registers no model class and runs no tower of ours inside vLLM: vLLM's own
    classes take finished embeddings. False, with a line in the log, under a transformers older than these towers need
    (vLLM 0.33 asks for one below 5.21). May be called any number of times; raises nothing of its own, because vLLM
    would not start.
    """
    import logging

    try:
        import transformers
    except ImportError:
        found = "none"
    else:
        found = transformers.__version__
        if tuple(int(n) for n in found.split(".")[:2] if n.isdigit()) >= TRANSFORMERS:
            import tubelet.integrations.transformers as towers

            return towers.TubeletModel is not None
    logging.getLogger("tubelet").info("towers need transformers %d.%d, found %s: not registered", *TRANSFORMERS, found)
    return False
