"""Embeddings with their positions as SGLang's Engine takes them: one dict a modality, in its processors' format.

Experimental: it has never run in SGLang's engine, only against the interfaces of one release.

    Engine.generate(**request(...))
        input_ids      the prompt, a placeholder for every row
        image_data     [{"format": "processor_output", "precomputed_embeddings": (T, D), "image_grid_thw": (N, 3),
                         "offsets": first and last token of each block, "mrope_positions": (3, S),
                         "mrope_position_delta": (1, 1)}]
        video_data     the same with "modality": "video" and video_grid_thw

Because positions go along, rows may have been dropped and frames sampled unevenly: every row keeps its true place. For
Qwen2-VL, Qwen2.5-VL and Qwen3-VL. The other format of 0.5.23, "precomputed_embedding" with a "feature", is not used:
there Qwen2-VL and Qwen3-VL run their tower on the feature, and Qwen2.5-VL unless its width is not 1,176; LLaVA's
processor gives every dict to the tower, so there is no door to it.

Source: sgl-project/sglang:python/sglang/srt/multimodal/processors/base_processor.py, qwen_vl.py, srt/managers/
mm_schedule.py@v0.5.23. The interfaces are recorded in tests/integrations/servers/sglang.json; nothing here imports it.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from tubelet.errors import ConfigError, InputError
from tubelet.integrations import served
from tubelet.integrations.served import Kind, Payload
from tubelet.language.placing.place import place
from tubelet.language.placing.rules import QWEN2_5_VL, QWEN2_VL, QWEN3_VL, PositionRule, TokenIds
from tubelet.language.vlm.features import VisualRows
from tubelet.packed import Packed

Model = Literal["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]
MODELS: tuple[Model, ...] = get_args(Model)
RULES: dict[str, PositionRule] = {"qwen2_vl": QWEN2_VL, "qwen2_5_vl": QWEN2_5_VL, "qwen3_vl": QWEN3_VL}
FORMAT = "processor_output"


def request(
    rows: Packed | VisualRows,
    input_ids: Sequence[int] | Tensor,
    token_ids: TokenIds,
    model: Model,
    *,
    rule: PositionRule | None = None,
    merge: int = 2,
) -> Payload:
    """The arguments of `Engine.generate` for one prompt: input_ids, image_data and, or, video_data.

    rows: what `VLM.encode` gives, in the language model's width, any of them dropped. input_ids: (S,), expanded
    (`expand_placeholders`), with images and videos under placeholders of their own. rule: how the checkpoint
    counts, `vlm.scheme.rule`; None takes the model's published one. merge: the model's spatial_merge_size. An item that
    has lost all rows is not in the prompt and its grid is left out. Tensors are on the host, without their graph.
    In-process only: JSON to the server's HTTP door carries no tensors. All items of a request are sent this way;
    SGLang does not mix them with pixels of the same modality.
    Raises: ConfigError for another model or a rule that counts like text; AlignmentError naming the item whose rows and
    placeholders differ; InputError for ids with a batch axis or one placeholder for both kinds; ShapeError for pixels.

        >>> p = tubelet.pack([torch.ones(6, 8)], [tubelet.Item.of(1, 2, 3)]).keep(torch.tensor([0, 5]))
        >>> sent = request(p, [5, 9, 9, 6], TokenIds(image=9, video=8), "qwen2_5_vl")
        >>> sent["image_data"][0]["mrope_positions"].tolist()
        [[0, 1, 1, 4], [0, 1, 2, 4], [0, 1, 3, 4]]
    """
    served.require_model(model, MODELS, "SGLang")
    counted = RULES[model] if rule is None else rule
    if counted.time == "none":
        raise ConfigError("these models count in three dimensions", expected=RULES[model], got=counted)
    ids = torch.as_tensor(input_ids, device="cpu")
    if ids.ndim != 1 or ids.is_floating_point():
        raise InputError(f"input_ids are one row of integers, got {ids.dtype} {tuple(ids.shape)}")
    if token_ids.video in (None, token_ids.image):
        raise InputError("images and videos need placeholders of their own", got=token_ids)
    p = served.joined(rows)
    served.require_features(p)
    p = served.in_raster_order(p)
    p = p.reorder([i for i, n in enumerate(p.lengths) if n])
    placed = place(p.with_x(p.x[:, :1]), ids, token_ids, rule=counted)
    starts = [int(at) for at in placed.visual.nonzero()[:, 0][list(p.starts[:-1])]] if len(p) else []
    kinds: list[Kind] = ["video" if int(ids[at]) == token_ids.video else "image" for at in starts]
    positions = {
        "mrope_positions": placed.position_ids.contiguous(),
        "mrope_position_delta": placed.positions.rope_deltas,
    }
    sent: Payload = {"input_ids": ids.tolist()}
    for kind in served.KINDS:
        token = token_ids.image if kind == "image" else token_ids.video
        some, numbers = served.of_kind(p, served.kinds_of(p, kinds), kind)
        if some is None:
            continue
        own: dict[str, Any] = {"modality": kind} if kind == "video" else {}
        sent[f"{kind}_data"] = [
            {
                "format": FORMAT,
                **own,
                "precomputed_embeddings": served.on_host(some.x),
                f"{kind}_grid_thw": served.patch_grids(some, merge),
                "offsets": _offsets(ids, token, [(starts[i], p.lengths[i]) for i in numbers]),
                **positions,
            }
        ]
    return sent


def _offsets(ids: Tensor, token: int, items: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """First and last token of every block: an item, or each piece of one where text stands between its rows."""
    places = np.flatnonzero(ids.numpy() == token)
    blocks: list[tuple[int, int]] = []
    done = 0
    for _, length in items:
        own = places[done : done + length]
        done += length
        pieces = np.split(own, np.flatnonzero(np.diff(own) != 1) + 1)
        blocks += [(int(piece[0]), int(piece[-1])) for piece in pieces]
    return blocks
