"""pack_*, std_*, head_*, ov2_*: weights and inputs of an upstream model, its outputs and gradients.

The four upstream interfaces become one call: rows, positions and kept rows are worked out from the inputs the case has,
and results go back into the shape upstream gives them ([B, K, D] for models that take batches).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.layout import layout_of
from tubelet.encoder.merging import tokens_merged
from tubelet.encoder.model import Encoder
from tubelet.encoder.options import RunOptions
from tubelet.families import onevision as ov
from tubelet.families.family import from_theirs, to_theirs
from tubelet.families.match import matches
from tubelet.packed import Item, Packed, all_positions
from tubelet.pixels.patchify import from_pixels

from ..cases import Case, Mismatch

MODELS = {
    "pack": ("llava_vit_packing", "packing"),
    "std": ("llava_vit", "standard"),
    "head": ("onevision_encoder", "standard"),
    "ov2": ("onevision_encoder", "ov2"),
}
RESIDUAL_KEEP = 2048  # how many patches the standard model keeps when visible_indices is a residual map


@dataclass
class Call:
    """One upstream call in the project's terms. batch: the leading sizes of its outputs, None when they are packed."""

    rows: Packed
    positions: Tensor | None
    batch: tuple[int, int] | None
    source: Tensor  # the input tensor that gradients are taken for


def encoder_config(config: Mapping[str, Any], kind: str) -> EncoderConfig:
    """The case's constructor arguments as a configuration; what is absent has the default of that upstream class."""
    model_type, fmt = MODELS[kind]
    return ov.config_from({"model_type": model_type, **config}, fmt)


def build(config: EncoderConfig, weights: Mapping[str, Tensor], fmt: str) -> Encoder:
    """An encoder with the case's weights: every tensor used, none missing. Raises Mismatch."""
    named, lines = matches((ov.FAMILY,), weights)[0].named, ov.FAMILY.formats[fmt]
    with torch.device("meta"):
        encoder = Encoder(config)
    expected = to_theirs(encoder.state_dict(), lines, config)
    if {k: t.shape for k, t in expected.items()} != {k: weights[named[k]].shape for k in named}:
        names = sorted(set(expected) ^ set(named))
        raise Mismatch(f"weights do not fit the configuration: {', '.join(names[:4]) or 'shapes differ'}")
    shapes = {k: tuple(t.shape) for k, t in encoder.state_dict().items()}
    state = from_theirs(shapes, lines, config, lambda name: weights[named[name]].clone())
    encoder.load_state_dict(state, assign=True)
    return encoder.eval()


def packed_call(inputs: Mapping[str, Tensor], config: EncoderConfig) -> Call:
    """Rows that upstream takes as they are: hidden_states (S, C p p) or pixel_patches (S, C, p, p), with grid_thw."""
    source = next(inputs[name] for name in ("hidden_states", "pixel_patches", "hidden_state") if name in inputs)
    items = tuple(Item.of(*row, picture=i) for i, row in enumerate(inputs["grid_thw"].tolist()))
    merge = config.pixels.merge if config.pixels.order == "block" else 1
    rows = Packed(source.flatten(1), all_positions(items, merge=merge), items, tuple(i.grid.rows for i in items))
    return Call(rows, inputs.get("patch_positions"), None, source)


def batch_call(inputs: Mapping[str, Tensor], config: EncoderConfig, head: bool) -> Call:
    """pixel_values [B, C, (T,) H, W] with upstream's visible_indices and patch_positions."""
    source = inputs["pixel_values"]
    whole = from_pixels(source, config.pixels)
    visible, places = inputs.get("visible_indices"), inputs.get("patch_positions")
    if visible is not None and visible.ndim == 5:
        visible = ov.mask_by_residual_topk(visible, RESIDUAL_KEEP, config.pixels.patch)[0]
    rows: list[Tensor] = []
    positions: list[Tensor] = []
    for i, item in enumerate(whole.items):
        chosen = None if visible is None else visible[i]
        if head:
            seen = ov.head_visible(item.grid, chosen, None if places is None else places[i])
        else:
            seen = ov.standard_visible(item.grid, chosen)
        local = torch.arange(item.grid.rows) if seen.rows is None else seen.rows
        rows.append(local + whole.starts[i])
        positions.append(seen.positions)
    counts = [len(r) for r in rows]
    kept = whole.keep(torch.cat(rows), counts)
    return Call(kept, torch.cat(positions), (len(counts), counts[0]), source)


def make_call(case_inputs: Mapping[str, Tensor], config: EncoderConfig, kind: str) -> Call:
    if "pixel_values" in case_inputs and not ("grid_thw" in case_inputs and kind in ("pack", "ov2")):
        return batch_call(case_inputs, config, head=kind == "head")
    return packed_call(case_inputs, config)


def outputs_of(encoder: Encoder, call: Call, *, pool: bool = True) -> dict[str, Tensor]:
    """Everything upstream's models return, by its name there."""
    p, where = call.rows, call.positions
    states = encoder.hidden_states(p, positions=where)
    trunk = encoder.trunk(p, positions=where)
    last = trunk if encoder.merger is None else tokens_merged(trunk, encoder.merger)

    def shaped(x: Tensor) -> Tensor:
        return x if call.batch is None else x.view(*call.batch, -1)

    out = {f"hidden_states.{i}": shaped(state.x) for i, state in enumerate(states)}
    out["before_merger"] = shaped(trunk.x)
    out["last_hidden_state"] = shaped(last.x)
    if encoder.pool is not None and pool:
        out["pooler_output"] = encoder.pooled(trunk)
    (segments,) = layout_of(p, encoder.config).spans.values()
    out["cu_seqlens"] = segments.host
    return out


def run_model(case: Case) -> None:
    kind = case.name.partition("_")[0]
    config = encoder_config(case.config, kind)
    fmt = MODELS[kind][1]
    encoder = build(config, case.weights, fmt)
    if case.has_gradients:
        run_gradients(case, encoder, kind)
        return
    call = make_call(case.inputs, config, kind)
    wide = any(name.startswith("fp32.") for name in case.outputs)
    floats = {k: v.float() if v.is_floating_point() else v for k, v in case.inputs.items()}
    float_weights = {k: v.float() for k, v in case.weights.items()} if wide else {}
    for grad in (False, True):  # without gradients a CPU runs in place; with them the plain modules run
        with torch.set_grad_enabled(grad):
            got = outputs_of(encoder, call)
            if wide:
                full = outputs_of(build(config, float_weights, fmt), make_call(floats, config, kind))
                got |= {f"fp32.{k}": v for k, v in full.items()}
        check_all(case, got)


def check_all(case: Case, got: Mapping[str, Tensor]) -> None:
    for name in case.outputs:
        if name not in got:
            raise Mismatch(f"output {name} is not one the project gives")
        case.check(name, got[name])


def run_gradients(case: Case, encoder: Encoder, kind: str) -> None:
    """loss = mean(last_hidden_state cot_last) + mean(pooler_output cot_pool), and all its gradients.

    Run twice, plainly and with gradient checkpointing, which must give the same.
    """
    for checkpointing in (False, True):
        encoder.zero_grad()
        encoder.set_run_options(RunOptions(gradient_checkpointing=checkpointing))
        leaf = {
            k: v.detach().clone().requires_grad_(k in ("hidden_states", "pixel_patches", "pixel_values"))
            for k, v in case.inputs.items()
        }
        call = make_call(leaf, encoder.config, kind)
        got = outputs_of(encoder, call)
        loss = torch.zeros(())
        for cotangent, output in (("cot_last", "last_hidden_state"), ("cot_pool", "pooler_output")):
            if cotangent in case.inputs:
                loss = loss + (got[output] * case.inputs[cotangent]).mean()
        loss.backward()
        gradients = {n: torch.zeros_like(w) if w.grad is None else w.grad for n, w in encoder.named_parameters()}
        theirs = to_theirs(gradients, ov.FAMILY.formats[MODELS[kind][1]], encoder.config)
        got |= {f"grad.{k}": v for k, v in theirs.items()}
        got["loss"] = loss
        if call.source.grad is not None:
            got["grad_input"] = call.source.grad
        check_all(case, got)
