"""CLIP's vision transformer against transformers: outputs, gradients, pixels, and whole models on disk."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from tests.families import cases, parity
from tests.families.cases import ANY_SIZE
from tests.families.parity import Pair
from tests.families.pictures import check_pictures, pixel_values
from tests.families.widths import IMAGE_TOKEN, LANGUAGE, TEXT, TINY

from tubelet import load_encoder
from tubelet.errors import ConfigError
from tubelet.families import clip
from tubelet.families.clip import CLIP
from tubelet.weights.save import save_encoder


@pytest.mark.parametrize("pair", cases.CLIP, ids=str, indirect=True, scope="module")
def test_pooled_clips_are_the_mean_of_their_frames(pair: Pair) -> None:
    features = pair.ours.features(pair.rows)
    assert features.pooled is not None
    assert features.prefix is not None
    rows = parity.normalise(pair.rows, pair.ours.pixels)
    theirs = pair.case.run(pair.peer, rows, pair.config, pair.case.layers).pooled
    assert theirs is not None
    frames = [i.grid.t for i in pair.rows.items]
    expected = torch.stack([part.mean(0) for part in theirs.split(frames)])
    torch.testing.assert_close(features.pooled, expected, atol=1e-4, rtol=0)
    assert features.prefix.shape == (sum(frames), 1, pair.config.hidden)


# ---- configurations


def test_variants_say_themselves() -> None:
    assert len(CLIP.variants) == 4
    for name, config in CLIP.variants.items():
        assert CLIP.config_from(CLIP.config_to(config)) == config, name
    large = CLIP.variants["clip_vit_large_patch14_336"]
    assert large.table is not None
    assert (large.hidden, large.layers, large.heads, large.table.height, large.act) == (1024, 24, 16, 24, "quick_gelu")


def test_defaults_are_upstreams() -> None:
    said = hf.CLIPVisionConfig().to_dict()
    for name, field in clip.FIELDS.items():
        assert said[name] == getattr(field, "default", field), name


@pytest.mark.parametrize(
    ("config", "word"),
    [({"hidden_act": "relu"}, "hidden_act"), ({"num_channels": 4}, "num_channels"), ({"registers": 4}, "registers")],
)
def test_what_it_cannot_be_is_refused(config: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        clip.config_from(config)


# ---- pixels


@pytest.mark.parametrize(("size", "patch"), [(224, 14), (336, 14), (224, 32), (75, 14)])
def test_pixels_are_the_processors(size: int, patch: int) -> None:
    config = clip.config_from({"image_size": size, "patch_size": patch})
    assert CLIP.processor_to is not None
    check_pictures(pixel_values(hf.CLIPImageProcessor(**CLIP.processor_to(config))), config.pixels, 15)


# ---- whole models on disk


def whole(kind: str) -> Any:
    """A tiny random model of pictures and text around a CLIP tower."""
    tower = {**TINY, "image_size": 42, "patch_size": 14, "model_type": "clip_vision_model", "projection_dim": 16}
    if kind == "projection":
        return hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**tower))
    if kind == "clip":
        return hf.CLIPModel(hf.CLIPConfig(text_config=TEXT, vision_config=tower, projection_dim=16))
    language = {**LANGUAGE, "model_type": "llama"}
    model, config = {
        "llava": (hf.LlavaForConditionalGeneration, hf.LlavaConfig),
        "llava_next": (hf.LlavaNextForConditionalGeneration, hf.LlavaNextConfig),
    }[kind]
    return model(config(vision_config=tower, text_config=language, image_token_index=IMAGE_TOKEN))


NOW_THEN = {
    "as written now": ("vision_tower.", "vision_tower."),
    "as released": ("vision_tower.", "vision_tower.vision_model."),
    "as written by 4.52": ("vision_tower.", "model.vision_tower.vision_model."),
    "as LLaVA trains": ("vision_tower.", "model.vision_tower.vision_tower.vision_model."),
}


@pytest.mark.parametrize("when", NOW_THEN)
@pytest.mark.parametrize("kind", ["projection", "clip", "llava", "llava_next"])
def test_whole_models_give_their_tower(kind: str, when: str, tmp_path: Path) -> None:
    model = whole(kind).eval()
    parity.randomise(model)
    model.save_pretrained(tmp_path / "now")
    folder = tmp_path / "now"
    if when != "as written now":
        found = load_file(folder / "model.safetensors")
        renamed = {name.replace(*NOW_THEN[when]): tensor for name, tensor in found.items()}
        first = next(name for name in renamed if name.endswith("embeddings.class_embedding"))
        renamed[first.replace("class_embedding", "position_ids")] = torch.arange(10)[None]  # stored by old versions
        config = model.config.to_dict()
        vision = config.get("vision_config", config)
        vision["vocab_size"] = 32000  # as LLaVA 1.5 has it
        folder = parity.write_checkpoint(tmp_path / "then", renamed, config, shards=2)
    ours = load_encoder(folder)
    tower = model.vision_model if hasattr(model, "vision_model") else model.model.vision_tower
    rows = parity.random_rows([(1, 3, 3), (1, 2, 4)], ours.config)
    theirs = ANY_SIZE(tower, parity.normalise(rows, ours.pixels), ours.config, "encoder.layers")
    with torch.no_grad():
        parity.compare(parity.run_ours(ours, rows), theirs)
    save_encoder(ours, tmp_path / "alone")
    alone = hf.CLIPVisionModel.from_pretrained(tmp_path / "alone")
    for name, tensor in alone.state_dict().items():
        assert torch.equal(tensor, tower.state_dict()[name]), name
