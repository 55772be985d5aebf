"""One checkpoint format into another, proven: what was written is loaded again and compared with what was read."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tubelet.doors import door
from tubelet.encoder.config import EncoderConfig, Merger
from tubelet.encoder.model import Encoder
from tubelet.encoder.report import LoadReport
from tubelet.errors import ConfigError, InputError
from tubelet.families.catalogue import families, require_variant, variant_of
from tubelet.families.family import Family
from tubelet.packed import Item, Packed, all_positions
from tubelet.weights.conversion import readable, sha256_of, write_report
from tubelet.weights.load import load_encoder, report_of
from tubelet.weights.locate import find_folder
from tubelet.weights.opened import open_weights
from tubelet.weights.save import encoder_files, known_format, staged
from tubelet.weights.tensors import same_bits
from tubelet.writing import resolved

PARTS = ("pool", "merger", "spans")
EPS = ("source", "upstream")
CUSTOM = "custom"
UPSTREAM_EPS = 1e-6  # what upstream's converters write whatever the source was trained with


class Fold(NamedTuple):
    """A merger for an encoder that has none: its configuration, its tensors by our names (norm, fc1, fc2), and the
    hidden state it was trained on, counted as LLaVA's mm_vision_select_layer: -1 is what the last layer gives."""

    config: Merger
    state: Mapping[str, Tensor]
    select_layer: int = -1


@dataclass(frozen=True)
class ConvertReport:
    """What was written and how it compares. bit_equal: every kept tensor came back from the written files with the same
    bits. max_abs_diff: of the features of a seeded input, source against written files, in float32; max_abs_diff_pooled
    the same of the pooled vectors, None without a head. Both are 0.0 unless eps was changed or a part dropped; where a
    merger was folded in, the features are those that it is given."""

    source: str
    out: str
    family: str
    from_format: str
    to_format: str
    variant: str | None
    tensors: int
    bytes: int
    bit_equal: bool
    max_abs_diff: float
    max_abs_diff_pooled: float | None
    eps: float
    head_eps: float
    dropped: tuple[str, ...]
    skipped: tuple[str, ...]
    table: str
    source_sha256: str

    def as_dict(self) -> dict[str, Any]:
        """The same as plain values, for JSON."""
        return asdict(self)


@door
def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    to: str,
    *,
    config: EncoderConfig | str | None = None,
    variant: str | None = None,
    drop: Sequence[str] = (),
    fold: Fold | None = None,
    eps: str = "source",
    unsafe_pickle: bool = False,
    revision: str | None = None,
    overwrite: bool = False,
) -> ConvertReport:
    """Write the encoder at `source` to the folder `out` in format `to` of its family, check it, and report.

    Of a whole vision-language model the vision encoder is taken. config: as in load_encoder. drop: parts the new format
    has no place for, given up knowingly. fold: a merger to put behind the encoder, as the projector of a LLaVA becomes
    that of LLaVA-OneVision-2's tower (`projector_files.fold_of` makes one); the final norm, the head and layers behind
    its hidden state go, for it never saw them. variant: the network the result must be; None expects the counterpart of
    the same name and refuses a mismatch (the standard huge is not the packing huge); "custom" writes any shape. eps:
    "source" keeps what the weights were trained with; "upstream" repeats upstream's converters, which write 1e-6 and so
    change the outputs. unsafe_pickle: read a pickle file, in a confined process. Cost: three copies of the weights and
    a small forward.
    The folder appears checked and with its report, or not at all. Raises what load_encoder and save_encoder raise,
    ConfigError for a refused network, InputError where `out` is the folder of the source.
    Source of folding: EvolvingLMMs-Lab/LLaVA-OneVision-2:transformers_impl/merge_ov2/remap.py@2c3c25e, which always
    takes the last layer.
    """
    for what, given, known in (("drop", drop, PARTS), ("eps", (eps,), EPS)):
        if not set(given) <= set(known):
            raise ConfigError(f"{what} is one of {', '.join(known)}", expected=known, got=tuple(given))
    place = resolved(out)
    with readable(Path(source), unsafe_pickle=unsafe_pickle, config=config is None) as given:
        folder = find_folder(given.weights, revision)
        files = [header.path for header in open_weights(folder, config=config).checkpoint.files]
        if any(file.resolve().parent == place for file in files):
            raise InputError("the output is the folder of the source", source=place.name)
        digest = sha256_of(files if given.pickle is None else [given.pickle])
        first = load_encoder(folder, config=config)
        report = _reported(first)
        assert report.format is not None
        family = next(f for f in families() if f.name == report.family)
        target = known_format(family, to)
        check_network(first.config, family, report.format, target, variant)
        if fold is not None:
            drop = tuple(dict.fromkeys((*drop, *(("pool",) if first.config.post_norm else ()))))
        second = _changed(first, drop, eps, fold)
        notes = {"converted_from": report.format, "source_sha256": digest}
        made = encoder_files(second, target, notes)
        with staged(out, overwrite) as beside:
            made.write(beside)
            written = load_encoder(beside)
            after = _reported(written)
            equal = same_bits(second.state_dict(), written.state_dict())
            difference, pooled = _compare_outputs(first, written, state=None if fold is None else fold.select_layer)
            result = ConvertReport(
                source=Path(source).name,
                out=str(out),
                family=family.name,
                from_format=report.format,
                to_format=target,
                variant=after.variant,
                tensors=after.tensors,
                bytes=after.bytes,
                bit_equal=equal,
                max_abs_diff=difference,
                max_abs_diff_pooled=pooled,
                eps=written.config.eps,
                head_eps=written.config.eps if written.config.head_eps is None else written.config.head_eps,
                dropped=tuple(drop),
                skipped=given.skipped,
                table=family.table_id,
                source_sha256=digest,
            )
            write_report(result.as_dict(), beside)
    return result


def _reported(encoder: Encoder) -> LoadReport:
    report = report_of(encoder)
    assert report is not None  # `load_encoder` leaves one
    return report


def check_network(config: EncoderConfig, family: Family, fmt: str, to: str, variant: str | None) -> None:
    """Refuse a network that is not the one `variant` names, or not the counterpart of its own name in `to`."""
    if variant == CUSTOM:
        return
    if variant is None:
        name = variant_of(config, family, fmt)
        variant = family.dialects.counterpart(name, to) if name and family.dialects else None
        if variant is None or variant_of(config, family, to) is not None:
            return
    wanted = require_variant(variant)[1]
    if _network(wanted) != _network(config):
        raise ConfigError(
            f"this network is {_network(config)}, {variant} is {_network(wanted)}; "
            "the variant custom (--variant custom) writes any",
            expected=_network(wanted),
            got=_network(config),
        )


def _network(config: EncoderConfig) -> str:
    return (
        f"{config.layers} layers x {config.hidden}, {config.heads} heads, MLP {config.mlp}, "
        f"patch {config.pixels.patch}, {config.norm} norm"
    )


def _changed(encoder: Encoder, drop: Sequence[str], eps: str, fold: Fold | None) -> Encoder:
    """The same weights (shared, not copied) in an encoder without the dropped parts, with the wished eps and merger."""
    config = encoder.config
    if "pool" in drop:
        config = replace(config, pool=False, post_norm=False)
    if "merger" in drop:
        pixels = replace(config.pixels, merge=1, order="raster")
        config = replace(config, merger=None, pixels=pixels)
    if "spans" in drop:
        config = replace(config, spans=("item",), span_frames=1, prefix_per="item")
    if eps == "upstream":
        config = replace(config, eps=UPSTREAM_EPS, head_eps=None)
    state = encoder.state_dict()
    if fold is not None:
        config = _folded(config, fold)
        state = {**state, **{f"merger.{name}": tensor for name, tensor in fold.state.items()}}
        widest = reduce(torch.promote_types, {tensor.dtype for tensor in state.values()})  # nothing is rounded
        state = {name: tensor.to(widest) for name, tensor in state.items()}
    with torch.device("meta"):
        out = Encoder(config)
    out.load_state_dict({name: state[name] for name in out.state_dict()}, assign=True)
    out.untrained, out.report = encoder.untrained, encoder.report
    return out.eval()


def _folded(config: EncoderConfig, fold: Fold) -> EncoderConfig:
    """The configuration with the merger, ending at its hidden state. Raises ConfigError where it does not fit."""
    layers = config.layers + 1 + fold.select_layer
    width = len(fold.state["norm.weight"])
    if config.merger is not None:
        raise ConfigError("the encoder has a merger; dropping it first (--drop merger) makes place", got=config.merger)
    if not 1 <= layers <= config.layers:
        raise ConfigError(
            f"select_layer counts from -1 to {-config.layers} here", limit=-config.layers, got=fold.select_layer
        )
    if width != config.hidden:
        raise ConfigError(
            f"the merger reads rows of {width}, the encoder has {config.hidden}", expected=config.hidden, got=width
        )
    pixels = replace(config.pixels, merge=fold.config.merge, order="block")
    return replace(config, layers=layers, merger=fold.config, pixels=pixels)


@torch.inference_mode()
def _compare_outputs(
    first: Encoder, second: Encoder, state: int | None = None, seed: int = 0
) -> tuple[float, float | None]:
    """Largest difference of the features, and of the pooled vectors, of two items of seeded noise; in float32.

    The encoders must have the same rows up to their order; before any merger, because one of them may have lost it.
    state: the hidden state of the first that the second ends with.
    """
    merge = max(first.pixels.merge, second.pixels.merge)
    frames = 1 + max(encoder.config.span_frames for encoder in (first, second))
    items = (Item.of(frames, 2 * merge, merge), Item.of(1, merge, 3 * merge, picture=1))
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(sum(i.grid.rows for i in items), first.pixels.width, generator=generator)
    lengths = tuple(i.grid.rows for i in items)
    order = merge if first.pixels.order == "block" else 1
    p = Packed(rows, all_positions(items, merge=order), items, lengths)
    tokens = [encoder.float().trunk(p) for encoder in (first, second)]
    if state is not None:
        tokens[0] = first.hidden_states(p)[state]
    difference = float((tokens[0].x - tokens[1].x).abs().max())
    if not (first.can_pool and second.can_pool):
        return difference, None
    pooled = [encoder.features(p).pooled for encoder in (first, second)]
    assert pooled[0] is not None
    assert pooled[1] is not None
    return difference, float((pooled[0] - pooled[1]).abs().max())
