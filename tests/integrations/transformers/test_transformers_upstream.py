"""Folders in upstream's own forms through transformers' Auto classes: one import, no remote code, the same outputs."""

import json
from pathlib import Path
from typing import Any
from unittest import TestCase

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoImageProcessor, AutoModel, CLIPImageProcessor

import tubelet
from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError, KeyMismatch, ShapeError, WeightsError
from tubelet.families import onevision as ov
from tubelet.families.family import to_theirs
from tubelet.integrations.transformers.model import TubeletConfig, TubeletImageProcessor, TubeletModel
from tubelet.pixels.patchify import from_pixels
from tubelet.weights.save import save_encoder

GOLDEN = Path(__file__).parents[2] / "golden" / "onevision"
TINY = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_channels": 3,
    "image_size": 16,
    "patch_size": 4,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "layer_norm_type": "layer_norm",
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "rope_theta": 10000.0,
    "dtype": "float32",
    "transformers_version": "4.53.1",
}
OV2 = {"spatial_merge_size": 2, "frame_windows_size": 2, "out_hidden_size": 40, "temporal_patch_size": 1}
# What upstream's classes write: every form has fields that the others do not know
WRITTEN: dict[str, tuple[ov.Format, dict[str, Any]]] = {
    "packing": (
        "packing",
        {"model_type": "llava_vit_packing", "architectures": ["LlavaViTPackingModel"], "use_head": True}
        | {"temporal_patch_size": 1, "spatial_merge_size": 1},
    ),
    "standard": ("standard", {"model_type": "llava_vit", "architectures": ["LlavaViTModel"], "use_head": True}),
    "released": (
        "standard",
        {"model_type": "onevision_encoder", "architectures": ["OneVisionEncoderModel"], "use_head": True}
        | {"rope_temporal_size": 64},
    ),
    "no head, rms": (
        "packing",
        {"model_type": "llava_vit_packing", "use_head": False, "layer_norm_type": "rms_norm", "layer_norm_eps": 1e-3},
    ),
    "onevision2": (
        "ov2",
        {"model_type": "onevision_encoder", "architectures": ["LlavaOnevision2VisionPretrainedModel"]}
        | {**OV2, "use_head": False, "tokens_per_second": 1},
    ),
    "training": (
        "source",
        {"model_type": "llava_vit_encoder", "use_head": True, "layer_norm_eps": 1e-5, "head_norm_eps": 1e-3},
    ),
}


def values(config: EncoderConfig, seed: int = 0) -> Encoder:
    encoder = tubelet.untrained(config, seed)
    encoder.untrained = False
    g = torch.Generator().manual_seed(seed)
    for p in encoder.parameters():
        p.data.add_(torch.randn(p.shape, generator=g) * 0.1)
    return encoder


def write(folder: Path, form: str, **more: Any) -> Path:
    """A folder as upstream's save_pretrained leaves it: its config.json, its names, nothing of ours in the metadata."""
    fmt, fields = WRITTEN[form]
    raw = {**TINY, **fields}
    encoder = values(ov.config_from(raw))
    folder.mkdir()
    state = to_theirs(encoder.state_dict(), ov.FAMILY.formats[fmt], encoder.config)
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({**raw, **more}))
    return folder


def batch(*shape: int, seed: int = 3) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("form", WRITTEN)
def test_a_folder_of_upstream_is_the_model_load_encoder_makes(form: str, tmp_path: Path):
    folder = write(tmp_path / "theirs", form)
    encoder = tubelet.load_encoder(folder)
    with TestCase().assertNoLogs("transformers", "WARNING"):
        config = AutoConfig.from_pretrained(folder)
        model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
        direct = TubeletModel.from_pretrained(str(folder))
    assert (type(config), type(model), type(direct)) == (TubeletConfig, TubeletModel, TubeletModel)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert config.encoder_config() == model.encoder.config == encoder.config
    assert (model.dtype, model.training, model.encoder.untrained) == (torch.float32, False, False)
    p = tubelet.concat(
        [from_pixels(batch(1, 3, 3, 16, 24), encoder.pixels), from_pixels(batch(1, 3, 8, 8), encoder.pixels)]
    )
    with torch.no_grad():
        tokens, trunk = encoder(p), encoder.trunk(p)
        for one in (model, direct):
            out = one(pixel_values=p.x, image_grid_thw=p.grid_thw)
            assert torch.equal(out.last_hidden_state, tokens.x)
            if encoder.pool is not None:
                assert torch.equal(out.pooler_output, encoder.pooled(trunk))


@pytest.mark.parametrize("case", ["pack_mixed_image_video", "pack_eps"])
def test_golden_outputs_from_a_folder_of_upstream(case: str, tmp_path: Path):
    said = json.loads((GOLDEN / f"{case}.json").read_text())
    tensors = load_file(str(GOLDEN / f"{case}.safetensors"))
    weights = {k.removeprefix("weight."): v for k, v in tensors.items() if k.startswith("weight.")}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava_vit_packing", **said["config"]}))
    model = AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        out = model(
            pixel_values=tensors["input.hidden_states"],
            image_grid_thw=tensors["input.grid_thw"],
            patch_positions=tensors.get("input.patch_positions"),
        )
    torch.testing.assert_close(out.last_hidden_state, tensors["output.last_hidden_state"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.pooler_output, tensors["output.pooler_output"], atol=1e-4, rtol=1e-4)


def test_saved_again_it_is_tubelets_own_form(tmp_path: Path):
    model = AutoModel.from_pretrained(write(tmp_path / "theirs", "released"), dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    model.save_pretrained(tmp_path / "ours")
    said = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert (said["model_type"], said["architectures"], said["dtype"]) == ("tubelet", ["TubeletModel"], "bfloat16")
    again = AutoModel.from_pretrained(tmp_path / "ours")
    state = again.encoder.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in model.encoder.state_dict().items())


def test_keywords_of_from_pretrained_are_honoured_or_refused(tmp_path: Path):
    folder = write(tmp_path / "theirs", "packing")
    model = AutoModel.from_pretrained(folder, attn_implementation="sdpa", dtype="float16", low_cpu_mem_usage=True)
    assert (model.config._attn_implementation, model.dtype) == ("sdpa", torch.float16)
    assert AutoModel.from_pretrained(tmp_path, subfolder="theirs").encoder.config.hidden == 64
    with pytest.raises(ConfigError, match="cache_dir"):
        AutoModel.from_pretrained(folder, cache_dir=str(tmp_path / "cache"))
    config = AutoConfig.from_pretrained(folder, output_hidden_states=True)
    model = AutoModel.from_pretrained(folder, config=config)
    assert len(model(batch(1, 3, 8, 8)).hidden_states) == 3
    made = AutoConfig.for_model("llava_vit_packing", hidden_size=96, num_attention_heads=3)
    assert type(made) is TubeletConfig
    assert made.encoder_config() == ov.config_from(
        {"model_type": "llava_vit_packing", "hidden_size": 96, "num_attention_heads": 3}
    )


def test_loading_is_as_strict_as_load_encoder(tmp_path: Path):
    folder = write(tmp_path / "theirs", "standard")
    state = load_file(folder / "model.safetensors")
    short = {k: v for k, v in state.items() if "layers.1.mlp.fc1.bias" not in k}
    save_file(short, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(KeyMismatch) as caught:
        AutoModel.from_pretrained(folder)
    assert caught.value.missing == ("encoder.layers.1.mlp.fc1.bias",)
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="pickle"):
        AutoModel.from_pretrained(folder)
    change = json.loads((folder / "config.json").read_text()) | {"surprise": 1}
    (folder / "config.json").write_text(json.dumps(change))
    with pytest.raises(ConfigError, match="surprise"):
        AutoConfig.from_pretrained(folder)


# ---- code that a folder brings along


EVIL = "from pathlib import Path\nPath(__file__).with_name('it_ran').touch()\nPath(MARK).touch()\n"


@pytest.mark.parametrize("trust", [None, False, True])
def test_code_in_a_folder_never_runs(trust: bool | None, tmp_path: Path):
    """transformers may turn the ConfigError into a ValueError of its own where it looks for a processor's class."""
    code = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoImageProcessor": "evil.Processor"}
    folder = write(tmp_path / "theirs", "released", auto_map=code)
    (folder / "evil.py").write_text(EVIL.replace("MARK", repr(str(tmp_path / "it_ran"))))
    (folder / "preprocessor_config.json").write_text("{}")
    said = {} if trust is None else {"trust_remote_code": trust}
    for auto in (AutoConfig, AutoModel, TubeletConfig, TubeletModel):
        with pytest.raises(ConfigError, match="auto_map can name code to run"):
            auto.from_pretrained(folder, **said)
    with pytest.raises(ValueError, match=r"Unrecognized image processor|auto_map can name code"):
        AutoImageProcessor.from_pretrained(folder, **said)
    # the way out that the message names: a configuration of one's own, and the file is not read
    raw = {**TINY, **WRITTEN["released"][1]}
    model = AutoModel.from_pretrained(folder, config=TubeletConfig.of(ov.config_from(raw)))
    assert torch.equal(
        model.encoder.patch.weight, tubelet.load_encoder(folder, config=ov.config_from(raw)).patch.weight
    )
    assert not list(tmp_path.rglob("it_ran"))


# ---- batches, as upstream's models and the processor it saves have them


@pytest.mark.parametrize("form", ["packing", "onevision2"])
@pytest.mark.parametrize("shape", [(2, 3, 16, 24), (3, 3, 5, 8, 16), (1, 3, 21, 18)])
def test_a_batch_is_its_items_one_by_one(form: str, shape: tuple[int, ...], tmp_path: Path):
    model = AutoModel.from_pretrained(write(tmp_path / "theirs", form))
    x = batch(*shape)
    with torch.no_grad():
        out = model(x, output_hidden_states=True)
        assert (out.last_hidden_state.shape[0], len(out.hidden_states)) == (shape[0], 3)
        for i, one in enumerate(x):
            p = from_pixels(one[None], model.encoder.pixels)
            alone = model(p.x, p.grid_thw, output_hidden_states=True)
            torch.testing.assert_close(out.last_hidden_state[i], alone.last_hidden_state, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(out.hidden_states[-1][i], alone.hidden_states[-1], atol=1e-5, rtol=1e-5)
            if out.pooler_output is not None:
                torch.testing.assert_close(out.pooler_output[i : i + 1], alone.pooler_output, atol=1e-5, rtol=1e-5)
    with pytest.raises(ShapeError, match="image_grid_thw"):
        model(batch(6, 48))


def test_the_processor_upstream_saves_gives_batches_the_model_takes(tmp_path: Path):
    folder = write(tmp_path / "theirs", "released")
    side = {"shortest_edge": 16}
    CLIPImageProcessor(size=side, crop_size={"height": 16, "width": 16}, resample=3).save_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    assert not isinstance(processor, TubeletImageProcessor)
    pictures = [Image.fromarray(np.random.default_rng(i).integers(0, 256, (30, 40, 3), np.uint8)) for i in range(2)]
    inputs = processor(images=pictures, return_tensors="pt")
    model = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        out = model(**inputs)
        want = model.encoder(from_pixels(inputs["pixel_values"], model.encoder.pixels))
    assert out.last_hidden_state.shape == (2, 16, 64)
    assert torch.equal(out.last_hidden_state.flatten(0, 1), want.x)


def test_a_processor_file_without_a_class_is_ours(tmp_path: Path):
    folder = write(tmp_path / "theirs", "released")
    (folder / "preprocessor_config.json").write_text(json.dumps({"patch_size": 4, "image_size": 16}))
    processor = AutoImageProcessor.from_pretrained(folder)
    assert type(processor) is TubeletImageProcessor
    assert processor.recipe == tubelet.load_encoder(folder).pixels.budgeted(None)  # which the family has, not the file


# ---- the mark of random weights


def test_untrained_is_carried_on(tmp_path: Path):
    config = ov.config_from({**TINY, **WRITTEN["packing"][1]})
    save_encoder(tubelet.untrained(config), tmp_path / "theirs", "packing")
    theirs = AutoModel.from_pretrained(tmp_path / "theirs")
    ours = TubeletModel.from_encoder(tubelet.untrained(config))
    for i, model in enumerate((theirs, ours)):
        assert model.encoder.untrained is True
        model.save_pretrained(tmp_path / str(i))
        again = AutoModel.from_pretrained(tmp_path / str(i))
        assert again.encoder.untrained is True
        save_encoder(again.encoder, tmp_path / f"{i} back", "packing")
        assert tubelet.load_encoder(tmp_path / f"{i} back").untrained is True
    trained = TubeletModel.from_encoder(values(config))
    trained.save_pretrained(tmp_path / "trained")
    assert AutoModel.from_pretrained(tmp_path / "trained").encoder.untrained is False
    with pytest.raises(ConfigError, match="untrained"):
        TubeletConfig(untrained="yes")
