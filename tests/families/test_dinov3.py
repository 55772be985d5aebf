"""DINOv3 ViT, plain and gated, against transformers: outputs, gradients, pixels, both ways of naming."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from tests.families import cases, parity
from tests.families.parity import Pair
from tests.families.pictures import check_pictures, pixel_values

from tubelet import load_encoder
from tubelet.errors import ConfigError, KeyMismatch
from tubelet.families.catalogue import read_config
from tubelet.families.dinov3 import DINOV3, FIELDS

# ---- names and files


DINOV3S = pytest.mark.parametrize("pair", cases.DINOV3, ids=str, indirect=True, scope="module")


@DINOV3S
def test_the_names_modules_have_load_as_well(pair: Pair, tmp_path: Path) -> None:
    """A state_dict of transformers 5 written as it is, beside the stored names that the hub has."""
    said = pair.case.config.to_dict()
    ours = load_encoder(parity.write_checkpoint(tmp_path / "modules", pair.peer.state_dict(), said, shards=2))
    assert "layer.0.norm1.weight" in load_file(pair.folder / "model.safetensors")
    assert "model.layer.0.norm1.weight" in pair.peer.state_dict()
    state = ours.state_dict()
    for name, tensor in pair.ours.state_dict().items():
        assert torch.equal(state[name], tensor), name


@DINOV3S
def test_keys_without_a_bias_stay_without(pair: Pair) -> None:
    """Loaded as zeros, never stored, and no gradient moves them."""
    layer: Any = pair.ours.layers[0]
    if not pair.config.qkv_bias:
        assert layer.qkv.bias is None
        return
    bias: torch.Tensor = layer.qkv.bias
    (grad,) = torch.autograd.grad(pair.ours(pair.rows).x.square().sum(), bias)
    q, k, v = (part.abs().max() for part in bias.chunk(3))
    dq, dk, dv = (part.abs().max() for part in grad.chunk(3))
    assert min(q, v, dq, dv) > 0
    assert (k > 0, dk > 0) == (pair.config.key_bias, pair.config.key_bias)


@DINOV3S
def test_a_missing_register_is_missing(pair: Pair, tmp_path: Path) -> None:
    """Where there are none the empty tensor may be absent; where there are some it may not."""
    tensors = load_file(pair.folder / "model.safetensors")
    del tensors["embeddings.register_tokens"]
    folder = parity.write_checkpoint(tmp_path / "bare", tensors, pair.case.config.to_dict())
    if pair.config.prefix == 1:
        load_encoder(folder)
    else:
        with pytest.raises(KeyMismatch, match="register_tokens"):
            load_encoder(folder)


# ---- configurations


def test_variants_say_themselves() -> None:
    for name, config in DINOV3.variants.items():
        assert DINOV3.config_from(DINOV3.config_to(config)) == config, name
        assert config.prefix == 5, name
    largest = DINOV3.variants["dinov3_vit7b16"]
    assert (largest.mlp, largest.head_dim, largest.qkv_bias) == (8192, 128, False)


def test_variants_are_upstreams_sizes() -> None:
    parity.check_variants(DINOV3, hf.DINOv3ViTModel, hf.DINOv3ViTConfig)


def test_defaults_are_upstreams() -> None:
    said = hf.DINOv3ViTConfig().to_dict()
    assert {n: said[n] for n in FIELDS} == {n: getattr(f, "default", f) for n, f in FIELDS.items()}
    assert DINOV3.config_from({}) == read_config(said, DINOV3, "dinov3")


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"value_bias": False}, "value_bias"),
        ({"key_bias": True, "query_bias": False, "value_bias": False}, "key_bias"),
        ({"rope_theta": -1.0}, "rope_theta"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"image_sise": 16}, "image_sise"),
        ({"hidden_size": 36, "num_attention_heads": 6}, "head dim 6"),
    ],
)
def test_what_it_cannot_be_is_refused(config: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        DINOV3.config_from(config)


# ---- pixels


@pytest.mark.parametrize("size", [224, 256])
def test_pixels_are_the_processors(size: int) -> None:
    """Upstream resamples in floats and never rounds; bytes are rounded once in each direction."""
    config = DINOV3.config_from({"image_size": size})
    assert DINOV3.processor_to is not None
    said = DINOV3.processor_to(config)
    for processor in (
        hf.DINOv3ViTImageProcessor(**said),
        hf.DINOv3ViTImageProcessor(size={"height": size, "width": size}),
    ):
        check_pictures(pixel_values(processor), config.pixels, 12, levels=1.0)


@DINOV3S
def test_a_saved_folder_has_the_processor(pair: Pair, tmp_path: Path) -> None:
    parity.check_save_back(pair, tmp_path / "out")
    processor = hf.AutoImageProcessor.from_pretrained(tmp_path / "out")
    assert processor.size == {"height": 224, "width": 224}
    assert processor.resample == 2
