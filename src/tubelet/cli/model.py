"""The encoder or the whole model a command works with, and what must be said about it."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from tubelet.cli.options import SEED, with_budget
from tubelet.cli.terminal import UsageError, file_name
from tubelet.cli.values import require_named
from tubelet.encoder.device import device_of
from tubelet.encoder.model import Encoder
from tubelet.errors import near_names
from tubelet.families.catalogue import variants
from tubelet.weights.load import load_encoder, report_of, untrained
from tubelet.weights.locate import built_in

if TYPE_CHECKING:
    from tubelet.language.vlm.model import VLM


@dataclass(frozen=True)
class Model:
    """An encoder with where it came from. untrained: its tokens mean nothing."""

    name: str
    encoder: Encoder
    untrained: bool
    dtype: str
    device: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON and for the metadata of a written file."""
        report = report_of(self.encoder)
        config = self.encoder.config
        return {
            "name": self.name,
            "untrained": self.untrained,
            "seed": SEED if self.name in variants() else None,
            "variant": None if report is None else report.variant,
            "dtype": self.dtype,
            "device": self.device,
            "layers": config.layers,
            "hidden": config.hidden,
            "width": config.out,
            "patch": config.pixels.patch,
        }

    @property
    def note(self) -> str:
        """One line for a person."""
        state = "UNTRAINED: random weights, the tokens mean nothing" if self.untrained else "trained weights"
        return f"{self.name} ({state}), {self.dtype} on {self.device}"


def load_model(name: str, dtype: str | None, device: str, *, pool: bool, config: str | None = None) -> Model:
    """A variant with seeded random weights, or what a folder, file or hub id holds. dtype: None keeps the stored one.
    config: the variant that stored weights are, where their own config.json is missing or refused.

    Raises UsageError for a name that can be none of these and for --pool where the encoder cannot pool, InputError
    for a device that is not there, WeightsError for what cannot be loaded.
    """
    where, kind, known = device_of(device), None if dtype is None else getattr(torch, dtype), variants()
    if config is not None and config not in known:
        raise UsageError(f"--config {config}: no such variant{near_names(config, known)}; tubelet models lists them")
    if config is not None and (name in known or built_in(name) is not None):
        raise UsageError(f"--config says what stored weights are; {name} is known by its name")
    encoder = None
    if name not in known:
        require_named(name)
        encoder = load_encoder(name, config=config, dtype=kind, device=where)
    if pool and not (known[name][1].pool if encoder is None else encoder.can_pool):
        raise UsageError(f"{name} has neither a pooling head nor a class token for --pool")
    if encoder is None:  # after what can be told without drawing its weights
        encoder = untrained(name, seed=SEED).to(where, kind)
    stored = str(encoder.patch.weight.dtype).removeprefix("torch.")
    return Model(file_name(name), encoder, encoder.untrained, stored, where)


def load_vlm(
    name: str,
    dtype: str,
    device: str,
    *,
    max_pixels: int | None = None,
    max_tokens: str | None = None,
    vision_tower: str | None = None,
) -> "VLM":
    """A whole model, with --max-pixels and --max-tokens in its recipes.

    Raises what `VLM.from_pretrained` raises, and UsageError.
    """
    from tubelet.language.vlm.model import VLM

    kind = None if dtype == "stored" else getattr(torch, dtype)
    vlm = VLM.from_pretrained(name, dtype=kind, device=device_of(device), vision_tower=vision_tower)
    scheme = vlm.scheme
    clips = None if scheme.video_pixels is None else with_budget(scheme.video_pixels, max_pixels, max_tokens)
    vlm.scheme = replace(scheme, pixels=with_budget(scheme.pixels, max_pixels, max_tokens), video_pixels=clips)
    return vlm
