"""Pixtral's encoder against transformers: alone, packed by its own class, and inside llava and mistral3."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from tests.families import parity
from tests.families.parity import Case, Outputs, Pair
from tests.families.pictures import check_pictures, pixel_values

from tubelet import Packed, load_encoder
from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError
from tubelet.families.catalogue import read_config
from tubelet.families.pixtral import FIELDS, PIXTRAL
from tubelet.pixels.patchify import unpatchify

GRIDS = [(1, 5, 5), (1, 3, 7), (1, 8, 1), (1, 1, 1), (1, 6, 9)]
TINY: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4}
MID: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4, "num_attention_heads": 8}


def run_packed(model: hf.PreTrainedModel, p: Packed, config: EncoderConfig, layers: str) -> Outputs:
    """All pictures in one call, padded to one size as its processor does; the class packs them itself."""
    frames = [frame.permute(2, 0, 1) for clip in unpatchify(p, config.pixels) for frame in clip]
    sizes = torch.tensor([frame.shape[1:] for frame in frames])
    height, width = sizes.amax(dim=0).tolist()
    padded = torch.stack(
        [torch.nn.functional.pad(f, (0, width - f.shape[2], 0, height - f.shape[1]), value=7.0) for f in frames]
    )
    with parity.layer_states(model, layers) as states:
        out = model(pixel_values=padded.to(model.dtype), image_sizes=sizes)
    return Outputs(out.last_hidden_state[0], hidden=tuple(s[0] for s in states))


CASES = {
    "tiny": (hf.PixtralVisionConfig(**TINY, patch_size=14, image_size=140), parity.run_images, GRIDS),
    "clips": (hf.PixtralVisionConfig(**TINY, hidden_act="silu"), parity.run_images, [(1, 4, 4), (3, 2, 5)]),
    "packed, another theta": (
        hf.PixtralVisionConfig(**TINY, rope_parameters={"rope_type": "axial", "rope_theta": 37.5}),
        run_packed,
        GRIDS,
    ),
    "mid": (hf.PixtralVisionConfig(**MID, hidden_act="silu"), run_packed, [(1, 16, 16), (1, 12, 20), (1, 31, 8)]),
}


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    config, run, grids = CASES[request.param]
    case = Case(request.param, hf.PixtralVisionModel, config, run, grids, "transformer.layers")
    return parity.written(case, PIXTRAL, tmp_path_factory.mktemp("pixtral"))


def test_outputs(pair: Pair) -> None:
    found = parity.check_outputs(pair)
    assert "prefix" not in found
    assert "pooled" not in found
    assert len([name for name in found if name.startswith("hidden")]) == pair.config.layers + 1


def test_packing(pair: Pair) -> None:
    parity.check_packing(pair)


def test_gradients(pair: Pair) -> None:
    parity.check_gradients(pair)


def test_bf16(pair: Pair) -> None:
    parity.check_bf16(pair)


def test_save_back(pair: Pair, tmp_path: Path) -> None:
    parity.check_save_back(pair, tmp_path / "out")
    processor = hf.AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert processor.size == {"longest_edge": pair.case.config.image_size}


# ---- whole models


@pytest.mark.parametrize("stored", [True, False], ids=["as written", "as its modules are named"])
@pytest.mark.parametrize("kind", ["llava", "mistral3"])
def test_whole_models_give_their_tower(kind: str, stored: bool, tmp_path: Path) -> None:
    language = {**TINY, "hidden_size": 32, "num_attention_heads": 2, "vocab_size": 50, "num_key_value_heads": 1}
    parts: dict[str, Any] = {
        "vision_config": {**TINY, "image_size": 64, "model_type": "pixtral", "hidden_act": "silu"},
        "text_config": {**language, "model_type": "mistral"},
        "image_token_index": 3,
    }
    if kind == "llava":
        model = hf.LlavaForConditionalGeneration(hf.LlavaConfig(**parts, vision_feature_layer=-1))
    else:
        model = hf.Mistral3ForConditionalGeneration(hf.Mistral3Config(**parts))
    parity.randomise(model.eval())
    if stored:
        model.save_pretrained(tmp_path / "whole")
    else:
        parity.write_checkpoint(tmp_path / "whole", model.state_dict(), model.config.to_dict(), shards=3)
    ours = load_encoder(tmp_path / "whole")
    rows = parity.random_rows(GRIDS, ours.config)
    tower: Any = model.model.vision_tower
    with torch.no_grad():
        theirs = run_packed(tower, parity.normalise(rows, ours.pixels), ours.config, "transformer.layers")
        parity.compare(parity.run_ours(ours, rows), theirs)


# ---- configurations


def test_variants_say_themselves() -> None:
    for name, config in PIXTRAL.variants.items():
        assert PIXTRAL.config_from(PIXTRAL.config_to(config)) == config, name
    assert PIXTRAL.variants["pixtral_large_vision"].head_dim == 88


def test_variants_are_upstreams_sizes() -> None:
    parity.check_variants(PIXTRAL, hf.PixtralVisionModel, hf.PixtralVisionConfig)


def test_defaults_are_upstreams() -> None:
    said = hf.PixtralVisionConfig().to_dict()
    fields = {n: f for n, f in FIELDS.items() if n not in ("head_dim", "rope_theta", "rope_parameters")}
    assert {n: said[n] for n in fields} == {n: getattr(f, "default", f) for n, f in fields.items()}
    assert said["rope_parameters"] == {"rope_theta": FIELDS["rope_theta"], "rope_type": "axial"}
    assert PIXTRAL.config_from({}) == read_config(said, PIXTRAL, "pixtral")


def test_the_base_of_frequencies_has_stood_in_two_places() -> None:
    old = PIXTRAL.config_from({"rope_theta": 500.0, "head_dim": 64, "is_composition": True})
    new = PIXTRAL.config_from({"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}})
    assert old == new
    assert old.rope is not None
    assert old.rope.theta == 500.0


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"head_dim": 80}, "heads of 80"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type"),
        ({"rope_parameters": {"rope_theta": 1e4, "factor": 2.0}}, "factor"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"image_sise": 16}, "image_sise"),
        ({"hidden_size": 36, "num_attention_heads": 6}, "head dim 6"),
    ],
)
def test_what_it_cannot_be_is_refused(config: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        PIXTRAL.config_from(config)


# ---- pixels


@pytest.mark.parametrize(("size", "patch"), [(1024, 16), (308, 14)])
def test_pixels_are_the_processors(size: int, patch: int) -> None:
    config = PIXTRAL.config_from({"image_size": size, "patch_size": patch})
    assert PIXTRAL.processor_to is not None
    said = PIXTRAL.processor_to(config)
    for processor in (
        hf.PixtralImageProcessor(**said),
        hf.PixtralImageProcessor(size={"longest_edge": size}, patch_size={"height": patch, "width": patch}),
    ):
        check_pictures(pixel_values(processor), config.pixels, 12)


def test_pixels_of_models_that_merge() -> None:
    """Mistral Small 3.1's processor gives the picture processor patches of patch_size x spatial_merge_size."""
    merging = replace(PIXTRAL.variants["mistral_small_3_1_vision"].pixels, merge=2)
    processor = hf.PixtralImageProcessor(size={"longest_edge": 1540}, patch_size={"height": 28, "width": 28})
    check_pictures(pixel_values(processor), merging, 8)
