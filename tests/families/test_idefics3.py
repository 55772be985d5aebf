"""The tower of Idefics3 and SmolVLM against transformers: configurations, places, pixels of its tiles, whole models."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from tests.families.pictures import check_pictures, pictures, pixel_values
from tests.families.widths import IMAGE_TOKEN, LANGUAGE, TINY
from transformers.models.idefics3.configuration_idefics3 import Idefics3VisionConfig
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.idefics3.modeling_idefics3 import Idefics3VisionTransformer

from tubelet import Clip, load_encoder, patchify
from tubelet.encoder.table import buckets
from tubelet.errors import ConfigError, RunError
from tubelet.families import idefics3
from tubelet.families.idefics3 import IDEFICS3
from tubelet.pixels.patchify import unpatchify
from tubelet.pixels.recipe import HALF, PixelRecipe
from tubelet.pixels.resize import UPSAMPLE
from tubelet.pixels.views_plan import ViewRule
from tubelet.weights.save import save_encoder

TILE = 28
RULE = ViewRule(TILE, (), canvas="multiple", longest=150, clip_longest=60)


def test_variants_say_themselves() -> None:
    for name, config in IDEFICS3.variants.items():
        assert IDEFICS3.config_from(IDEFICS3.config_to(config)) == config, name


def test_defaults_are_upstreams() -> None:
    said = Idefics3VisionConfig().to_dict()
    for name, field in idefics3.FIELDS.items():
        assert said[name] == getattr(field, "default", field), name


def test_a_published_configuration_is_read() -> None:
    """As SmolVLM2-500M's stands on the hub."""
    found = IDEFICS3.config_from(
        {
            "hidden_size": 768, "image_size": 512, "max_image_size": {"longest_edge": 512},
            "model_type": "smolvlm_vision", "num_attention_heads": 12, "patch_size": 16,
            "size": {"longest_edge": 2048}, "tie_word_embeddings": False, "use_base_siglip": False,
        }
    )  # fmt: skip
    assert found == IDEFICS3.variants["smolvlm_256m_vision"]


@pytest.mark.parametrize(
    ("config", "word"), [({"hidden_act": "relu"}, "hidden_act"), ({"image_size": 7}, "patch"), ({"x": 4}, "x")], ids=str
)
def test_what_it_cannot_be_is_refused(config: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        idefics3.config_from(config)


def test_places_are_where_patches_begin() -> None:
    assert buckets(8, 4, torch.device("cpu")).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert buckets(3, 6, torch.device("cpu")).tolist() == [0, 2, 4]
    assert buckets(27, 27, torch.device("cpu")).tolist() == list(range(27))
    assert buckets(19, 19, torch.device("cpu")).tolist() != list(range(19))  # float32 decides at an edge


def test_pixels_of_the_tower_are_a_processors() -> None:
    config = IDEFICS3.variants["smolvlm_256m_vision"]
    size = {"height": 512, "width": 512}
    check_pictures(pixel_values(hf.SiglipImageProcessor(size=size, resample=1)), config.pixels, 6)


@pytest.mark.parametrize("resampler", ["torch", "pillow"])
@pytest.mark.parametrize("splits", [True, False])
def test_pixels_of_tiles_are_the_processors(resampler: Any, splits: bool) -> None:
    """Up to three resizes, one after the other, bit for bit, torch's filter and Pillow's."""
    made = hf.Idefics3ImageProcessor if resampler == "torch" else Idefics3ImageProcessorPil
    processor: Any = made(size={"longest_edge": 150}, max_image_size={"longest_edge": TILE}, do_image_splitting=splits)
    recipe = PixelRecipe(7, "square", size=TILE, resampler=resampler, interpolation="lanczos", mean=HALF, std=HALF)
    rule = RULE if splits else ViewRule(TILE, (), longest=150)
    for picture in (*pictures(7, high=300), *pictures(2, seed=5, low=8, high=30), np.full((3, 290, 3), 9, np.uint8)):
        said = processor(
            images=torch.from_numpy(picture).permute(2, 0, 1), return_row_col_info=True, return_tensors="pt"
        )
        theirs = ((said["pixel_values"][0].double() * 0.5 + 0.5) * 255).round().permute(0, 2, 3, 1)
        ours = unpatchify(patchify([Clip(picture[None], (0.0,))], recipe, views=rule), recipe)
        assert len(ours) == len(theirs) == max(1, said["rows"][0][0] * said["cols"][0][0] + 1)
        assert torch.equal(torch.cat(ours).double(), theirs), picture.shape


def test_pixels_of_frames_are_the_processors() -> None:
    processor = hf.SmolVLMVideoProcessor(size={"longest_edge": 60}, max_image_size={"longest_edge": TILE})
    recipe = PixelRecipe(7, "square", size=TILE, interpolation="lanczos", mean=HALF, std=HALF)
    for picture in pictures(4, high=200):
        frames = np.stack([picture, picture[::-1]])
        said = processor(videos=[torch.from_numpy(frames).permute(0, 3, 1, 2)], return_tensors="pt")
        theirs = ((said["pixel_values"][0].double() * 0.5 + 0.5) * 255).round().permute(0, 2, 3, 1)
        [ours] = unpatchify(patchify([Clip(frames, (0.0, 1.0))], recipe, views=RULE), recipe)
        assert torch.equal(ours.double(), theirs)


def test_a_torch_without_lanczos_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(UPSAMPLE, "lanczos", "_upsample_lanczos2d_of_later")
    with pytest.raises(RunError, match="pillow"):
        patchify([Clip(np.zeros((1, 40, 50, 3), np.uint8), (0.0,))], IDEFICS3.variants["smolvlm_2b_vision"].pixels)


def test_its_tower_is_read_from_a_whole_model(tmp_path: Path) -> None:
    vision = {**TINY, "image_size": 56, "patch_size": 14, "model_type": "idefics3_vision"}
    text = hf.LlamaConfig(**LANGUAGE, pad_token_id=0)
    config = hf.Idefics3Config(vision_config=vision, text_config=text, image_token_id=IMAGE_TOKEN)
    model = hf.Idefics3ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path / "whole")
    encoder = load_encoder(tmp_path / "whole")
    save_encoder(encoder, tmp_path / "alone")
    tower = Idefics3VisionTransformer.from_pretrained(tmp_path / "alone")
    theirs = dict(model.model.vision_model.state_dict())
    assert all(torch.equal(t, theirs[name]) for name, t in tower.state_dict().items())
