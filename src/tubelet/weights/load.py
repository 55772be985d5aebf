"""Weights into an encoder: strict, from safetensors only, and whole or not at all.

    find files -> read config and names -> which family -> check headers of the shards it needs
               -> compare every name and shape -> read its tensors, no others -> a new Encoder

Nothing is allocated before names and shapes agree, and the encoder is built without values first, so an error at any
point leaves nothing behind. Of a whole vision-language model only the vision part's tensors are read, and only the
shards they stand in are opened (of a hub's: fetched).
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from tubelet.doors import door
from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.model import Encoder
from tubelet.encoder.report import LoadReport
from tubelet.errors import ConfigError, NotFinite
from tubelet.families.catalogue import families, format_of, home_of, require_variant, variant_of
from tubelet.families.family import from_theirs, to_theirs
from tubelet.families.match import Match, matches
from tubelet.weights.locate import Source, find_folder
from tubelet.weights.opened import open_weights, skeleton
from tubelet.weights.tensors import TensorReader, compare_names, stored_type, wanted_type

INIT_STD = 0.02


@door
def load_encoder(
    source: Source,
    *,
    config: EncoderConfig | str | None = None,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    allow_missing: Sequence[str] = (),
    allow_nonfinite: bool = False,
) -> Encoder:
    """An encoder with the weights of a folder, a .safetensors file or a hub id, in any format of any family.

    A `CheckpointFolder` is what one of these was found to be, so that nothing is looked for again.

    The file may hold a vision encoder alone or a whole vision-language model, whose other tensors are not read; of its
    config.json the part under vision_config counts. config: a configuration or the name of a variant instead of the
    file's config.json, which is then not read. Without either, the shapes must fit exactly one variant. How pictures
    are sized is what preprocessor_config.json (or processor_config.json) says, where one is there, config= is not given
    and the family has no rule of its own, as OneVision-Encoder has; else the family's default. dtype: None
    keeps the stored type (the widest, where files mix). allow_missing: upstream names that may be absent and are then
    initialised. `report_of` says what was done. Raises KeyMismatch (with all missing, unexpected and mis-shaped names),
    ConfigError, UnsafeFile, UnsafePath, NotFinite, or WeightsError when nothing is there.

        >>> encoder = load_encoder("weights/ov-large", dtype=torch.bfloat16)  # doctest: +SKIP
    """
    if dtype is not None and not dtype.is_floating_point:
        raise ConfigError(f"weights are floating point numbers, not {dtype}", got=str(dtype))
    folder = find_folder(source, revision)
    opened = open_weights(folder, config=config)
    checkpoint, match, settled = opened
    entries, lines = opened.entries, match.family.formats[match.format]
    encoder, expected = skeleton(settled, match.family, match.format)
    unused = {name: shape(settled) for name, shape in match.family.unused.items()}
    initialised = compare_names(expected, entries, allow_missing, checkpoint.name, unused, lambda: _described(match))
    kind = wanted_type(dtype, folder) or stored_type([entries[name] for name in expected if name in entries])
    fresh = to_theirs(initial_state(settled), lines, settled) if initialised else {}
    shapes = {name: tuple(t.shape) for name, t in encoder.state_dict().items()}
    with TensorReader(checkpoint) as reader:

        def read(name: str) -> Tensor:
            tensor = (fresh[name] if name in initialised else reader(match.named[name])).to(device, kind, copy=True)
            if not allow_nonfinite and not bool(tensor.isfinite().all()):
                raise NotFinite(
                    f"NaN or infinity in {name} as {kind}; allow_nonfinite=True loads it",
                    source=checkpoint.name,
                    got=name,
                )
            return tensor

        state = from_theirs(shapes, lines, settled, read)
    encoder.load_state_dict({name: _alone(tensor) for name, tensor in state.items()}, assign=True)
    report = LoadReport(
        source=checkpoint.name,
        family=match.family.name,
        format=match.format,
        variant=variant_of(settled, match.family, match.format),
        tensors=len(expected) - len(initialised),
        bytes=sum(entries[name].end - entries[name].start for name in expected if name in entries),
        dtype=str(kind).removeprefix("torch."),
        prefix=match.prefix,
        ignored=match.ignored,
        initialised=initialised,
        untrained=checkpoint.metadata.get("untrained") == "true",
    )
    return _mark(encoder, report)


@door
def untrained(variant: str | EncoderConfig, seed: int = 0) -> Encoder:
    """A variant with seeded random weights, for trying things out: its tokens mean nothing, and it says so itself.

    `encoder.untrained` is True, and files saved from it carry that on. Equal seeds give equal weights wherever torch's
    generator does, whatever else a variant contains.

        >>> untrained("llava_vit_packing_small").untrained
        True
    """
    if isinstance(variant, str):
        family, config = require_variant(variant)
        name, home = variant, (family, format_of(family, variant))
    else:
        name, config, home = None, variant, home_of(variant)
    with torch.device("meta"):
        encoder = Encoder(config)
    state = initial_state(config, seed)
    encoder.load_state_dict(state, assign=True)
    size = sum(t.numel() * t.element_size() for t in state.values())
    family, fmt = (home[0].name, home[1]) if home else (None, None)
    return _mark(encoder, LoadReport("untrained", family, fmt, name, len(state), size, "float32", untrained=True))


def report_of(encoder: Encoder) -> LoadReport | None:
    """How this encoder got its weights; None for one that was built by hand."""
    return encoder.report


def _mark(encoder: Encoder, report: LoadReport) -> Encoder:
    encoder.report, encoder.untrained = report, report.untrained
    return encoder.eval()


# ---- the steps


def _described(match: Match) -> str:
    """What the tensors were taken for, and what they look more like."""
    under = f" under {match.prefix!r}" if match.prefix else ""
    other = next(iter(matches(families(), match.named.values())), match)
    better = f"; the names are rather {other.family.name}'s" if other.known > match.known else ""
    return f", read as {match.family.name}{under}{better}"


def _alone(tensor: Tensor) -> Tensor:
    """`tensor` contiguous and with no neighbours in its memory."""
    tensor = tensor.contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def initial_state(config: EncoderConfig, seed: int = 0) -> dict[str, Tensor]:
    """Seeded start values by our names: matrices N(0, 0.02), biases 0, norms 1 and 0, the probe N(0, 1); float32.

    Each tensor has a generator of its own, seeded from `seed` and its name, so its values do not depend on the others.
    Source: EvolvingLMMs-Lab/OneVision-Encoder:model_factory/vit_preview_v0_packing_hf.py@28efa3a, except that the
    pooling head's in_proj is drawn like every other matrix.
    """
    with torch.device("meta"):
        shapes = {name: t.shape for name, t in Encoder(config).state_dict().items()}
    out: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if name.endswith(".bias"):
            out[name] = torch.zeros(shape)
        elif len(shape) == 1 and name != "pool.probe":
            out[name] = torch.ones(shape)
        else:
            digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            out[name] = torch.randn(shape, generator=generator)
            if name != "pool.probe":
                out[name] *= INIT_STD
    return out
