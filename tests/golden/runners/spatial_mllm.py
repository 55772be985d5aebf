"""Spatial-MLLM as a whole: a folder in upstream's layout, read by `VLM.from_pretrained`, asked and trained on."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tubelet import Item, Packed, pack
from tubelet.geometry.branch import frames_of
from tubelet.language.placing.rules import PositionRule
from tubelet.language.vlm.features import VisualRows
from tubelet.language.vlm.model import VLM
from tubelet.packed.file import write_tensors
from tubelet.writing import write_json

from ..cases import Case, Mismatch


def model_of(case: Case) -> VLM:
    """Written as upstream's save_pretrained does and read back, counting as it does."""
    config = {k: v for k, v in case.config.items() if k != "vggt_tiny"} | {"model_type": "spatial-mllm"}
    with tempfile.TemporaryDirectory() as folder:
        write_tensors(Path(folder) / "model.safetensors", case.weights, {"format": "pt"})
        write_json(Path(folder) / "config.json", config)
        vlm = VLM.from_pretrained(folder)
    if vlm.scheme.rule.time != "rows":
        raise Mismatch("a row of time does not count one")
    rate = case.config["vision_config"]["tokens_per_second"]
    vlm.scheme = replace(vlm.scheme, rule=PositionRule("seconds", rate, "float32"))
    return vlm


def patches_of(case: Case, kind: str) -> Packed:
    """Rows of every grid, in whose seconds a tubelet starts."""
    rows = case.inputs["pixel_values_videos" if kind == "video" else "pixel_values"]
    grids = case.inputs[f"{kind}_grid_thw"].tolist()
    steps = case.inputs["second_per_grid_ts"].tolist() if kind == "video" else [0.0] * len(grids)
    items = [
        replace(Item.of(t, h, w), times_s=tuple(i * step for i in range(t)))
        for (t, h, w), step in zip(grids, steps, strict=True)
    ]
    lengths = [t * h * w for t, h, w in grids]
    return pack(list(rows.split(lengths)), items, merge=2)


def check_frames(vlm: VLM, p: Packed, kind: str, case: Case) -> None:
    """The frames in the patches are those that upstream hands VGGT beside them."""
    names = sorted(name for name in case.inputs if name.startswith(f"{kind}_tchw"))
    assert vlm.spatial is not None
    target = vlm.spatial.vggt.pixels
    got = frames_of(p, vlm.encoder.pixels, replace(target, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
    want: list[Tensor] = []
    for name in names:
        frames = case.inputs[name]
        n, c, h, w = frames.shape
        want.append(frames.view(n, c, h // 14, 14, w // 14, 14).permute(0, 2, 4, 1, 3, 5).reshape(-1, 588))
    if not torch.allclose(got.x, torch.cat(want), atol=1e-5):
        raise Mismatch("the frames inside the patches are not upstream's")


def scenes_of(p: Packed, kind: str) -> Sequence[int] | None:
    return (len(p),) if kind == "image" else None


def run_spatial_mllm(case: Case) -> None:
    vlm = model_of(case)
    kind = "image" if "pixel_values" in case.inputs else "video"
    p = patches_of(case, kind)
    check_frames(vlm, p, kind, case)
    if "labels" in case.inputs:
        _train_step(case, vlm, p)
        return
    with torch.no_grad():
        rows = vlm.encode(p, scenes=scenes_of(p, kind))
        ready = vlm.ready(rows, case.inputs["input_ids"], attention_mask=case.inputs.get("attention_mask"))
        case.check("fused_embeds", rows.tokens.x)
        valid = ready.attention_mask.bool()
        places = ready.places.movedim(1, 0)  # (3, B, S)
        case.check("position_ids", places.masked_fill(~valid, 1))  # padding stands at 1 there
        logits = vlm(ready)
        if "logits_valid" in case.outputs:
            case.check("logits_valid", logits[valid])
        else:
            case.check("logits", logits)
    if "rope_deltas" in case.outputs:
        case.check("rope_deltas", ready.delta[:, None])
    if "video_embeds" in case.outputs:
        _check_parts(case, vlm, p, ready.inputs_embeds)
    if "generated_ids" in case.outputs:
        prompt = case.inputs["input_ids"]
        more = case.outputs["generated_ids"].shape[1] - prompt.shape[1]
        case.check("generated_ids", torch.cat([prompt, vlm.generate(ready, max_new_tokens=more)], dim=1))


def _check_parts(case: Case, vlm: VLM, p: Packed, embeds: Tensor) -> None:
    """The tower, VGGT's last level and the prompt with its rows."""
    assert vlm.spatial is not None
    with torch.no_grad():
        case.check("video_embeds", vlm.encoder(p).x)
        frames = frames_of(p, vlm.encoder.pixels, vlm.spatial.vggt.pixels)
        last = vlm.spatial.vggt.run(frames, keep=(-1,), heads=())
    level = len(vlm.spatial.vggt.config.states) - 1
    special = last.special[level]
    whole = torch.cat([special, last.kept[level].x.view(len(special), -1, special.shape[2])], dim=1)
    case.check("spatial_last", whole)
    case.check("inputs_embeds", embeds)


def _train_step(case: Case, vlm: VLM, p: Packed) -> None:
    """Loss and gradients of what upstream trains: connector, merger and language model."""
    assert vlm.spatial is not None
    learn = {"connector": vlm.spatial.connector, "merger": vlm.encoder.merger, "language": vlm.speaker.lm}
    vlm.requires_grad_(False)
    for part in learn.values():
        assert part is not None
        part.requires_grad_(True)
    rows: VisualRows = vlm.encode(p)
    ready = vlm.ready(rows, case.inputs["input_ids"], labels=case.inputs["labels"])
    assert ready.labels is not None
    logits = vlm(ready)[:, :-1].flatten(0, 1)
    loss = F.cross_entropy(logits, ready.labels[:, 1:].flatten(), ignore_index=-100)
    loss.backward()
    case.check("loss", loss)
    grads: dict[str, Any] = {
        name: None if w.grad is None else w.grad for name, w in vlm.named_parameters() if w.requires_grad
    }
    if any(g is None for g in grads.values()):
        raise Mismatch("a parameter that learns has no gradient")
    case.check("grad_norm_all", torch.stack([g.norm() for g in grads.values()]).norm())
    connector, lm = vlm.spatial.connector, vlm.speaker.lm.get_submodule("layers.0.self_attn.q_proj")
    size = connector.channels
    norm = connector.norm.weight.grad
    assert norm is not None
    case.check("grad.connector.ln_q.weight", norm.view(2, 4, size).permute(1, 2, 0).flatten())
    case.check("grad.connector.mlp.0.bias", connector.fc1.bias.grad)
    case.check("grad.connector.mlp.2.weight", connector.fc2.weight.grad)
    case.check("grad.model.embed_tokens.weight", vlm.speaker.get_input_embeddings().weight.grad)
    case.check("grad.model.layers.0.self_attn.q_proj.weight", lm.weight.grad)
    assert vlm.encoder.merger is not None
    case.check("grad.visual.merger.mlp.2.weight", vlm.encoder.merger.fc2.weight.grad)
