"""AIMv2, with a learned table and native, against transformers: alone, inside aimv2, and under apple's own names."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm.layers
import torch
import transformers as hf
from safetensors.torch import load_file
from tests.families import cases, parity
from tests.families.parity import Pair
from tests.families.pictures import check_pictures, pixel_values
from tests.families.widths import TINY

from tubelet import load_encoder
from tubelet.encoder.table import PositionTable
from tubelet.errors import ConfigError
from tubelet.families.aimv2 import AIMV2, FIELDS
from tubelet.families.catalogue import read_config
from tubelet.weights.load import report_of
from tubelet.weights.save import save_encoder

# ---- names and files

APPLE = {  # convert_aimv2_original_pytorch_to_hf.py@2341119, read backwards, without its joining of q, k and v
    "embeddings.patch_embed": "preprocessor.patchifier.proj",
    "embeddings.position_embedding.weight": "preprocessor.pos_embed",
    "embeddings.rms_norm": "preprocessor.patchifier.norm",
    "encoder.layers": "trunk.blocks",
    "attention.out_proj": "attn.proj",
    "ffn.gate_proj": "mlp.fc1",
    "ffn.down_proj": "mlp.fc2",
    "ffn.up_proj": "mlp.fc3",
    "rms_norm1": "norm_1",
    "rms_norm2": "norm_2",
    "head.k_proj": "head.k",
    "head.v_proj": "head.v",
    "head.output_proj": "head.linear",
}


def apples(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors as apple's checkpoints hold them."""
    out: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        before, _, leaf = name.partition(".attention.q_proj.")
        if leaf:
            joined = torch.cat([tensors[f"{before}.attention.{part}_proj.{leaf}"] for part in "qkv"])
            out[f"{before}.attn.qkv.{leaf}".replace("encoder.layers", "trunk.blocks")] = joined
            continue
        if ".attention.k_proj." in name or ".attention.v_proj." in name:
            continue
        if name.startswith("rms_norm."):
            name = f"trunk.post_trunk_norm.{name.rpartition('.')[2]}"
        for theirs, apple in APPLE.items():
            name = name.replace(theirs, apple)
        out[name] = tensor[None] if name.endswith("pos_embed") else tensor
    return out


@pytest.mark.parametrize("pair", cases.AIMV2, ids=str, indirect=True, scope="module")
@pytest.mark.parametrize("prefix", ["", "image_encoder."], ids=["alone", "beside a text encoder"])
def test_apples_own_names(pair: Pair, prefix: str, tmp_path: Path) -> None:
    stored = apples(load_file(pair.folder / "model.safetensors"))
    tensors = {prefix + name: tensor for name, tensor in stored.items()}
    if prefix:
        tensors["text_encoder.trunk.post_trunk_norm.weight"] = torch.ones(48)
    folder = parity.write_checkpoint(tmp_path / "apple", tensors, pair.case.config.to_dict())
    ours = load_encoder(folder)
    report = report_of(ours)
    assert report is not None
    assert (report.format, len(report.ignored)) == ("aimv2_apple", 1 if prefix else 0)
    for name, tensor in pair.ours.state_dict().items():
        assert torch.equal(ours.state_dict()[name], tensor), name
    save_encoder(ours, tmp_path / "back")
    back = load_file(tmp_path / "back" / "model.safetensors")
    assert back.keys() == stored.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in stored.items())


def test_a_whole_model_gives_its_tower(tmp_path: Path) -> None:
    text = {**TINY, "vocab_size": 50, "max_position_embeddings": 8, "eos_token_id": 2}
    model = hf.Aimv2Model(hf.Aimv2Config(vision_config={**TINY, "image_size": 56}, text_config=text)).eval()
    parity.randomise(model)
    model.save_pretrained(tmp_path)
    ours = load_encoder(tmp_path)
    rows = parity.normalise(parity.random_rows([(1, 4, 4)] * 2, ours.config), ours.pixels)
    with torch.no_grad():
        theirs = parity.run_images(model.vision_model, rows, ours.config, "encoder.layers")
        parity.compare(parity.run_ours(ours, rows), theirs)


# ---- configurations


def test_variants_say_themselves() -> None:
    for name, config in AIMV2.variants.items():
        assert AIMV2.config_from(AIMV2.config_to(config)) == config, name
    assert AIMV2.variants["aimv2_large_patch14_224_lit"].pool
    assert not AIMV2.variants["aimv2_3b_patch14_448"].pool


def test_variants_are_upstreams_sizes() -> None:
    parity.check_variants(AIMV2, hf.Aimv2VisionModel, hf.Aimv2VisionConfig)


def test_defaults_are_upstreams() -> None:
    said = hf.Aimv2VisionConfig().to_dict()
    fields = {n: f for n, f in FIELDS.items() if n != "use_bias"}
    assert {n: said[n] for n in fields} == {n: getattr(f, "default", f) for n, f in fields.items()}
    assert AIMV2.config_from({}) == read_config(said, AIMV2, "aimv2")


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"use_bias": True}, "use_bias"),
        ({"is_native": 1}, "is_native"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"image_sise": 16}, "image_sise"),
        ({"auto_map": {"AutoModel": "x.py"}}, "auto_map"),
    ],
)
def test_what_it_cannot_be_is_refused(config: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        AIMV2.config_from(config)


# ---- positions and pixels


@pytest.mark.parametrize("grid", [(4, 4), (7, 3), (2, 9)])
def test_other_grids_are_those_of_timm(grid: tuple[int, int]) -> None:
    """Upstream's class cannot; timm, which has these weights as well, resizes their positions like this."""
    config = AIMV2.config_from({**TINY, "image_size": 56})
    assert config.table is not None
    table = PositionTable(config.table, 48)
    weight = torch.randn(16, 48, generator=torch.Generator().manual_seed(0))
    table.load_state_dict({"weight": weight})
    theirs = timm.layers.resample_abs_pos_embed(weight[None], list(grid), num_prefix_tokens=0)
    torch.testing.assert_close(table.resized(*grid, torch.device("cpu")), theirs[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [224, 336])
def test_pixels_are_the_processors(size: int) -> None:
    config = AIMV2.config_from({"image_size": size})
    assert AIMV2.processor_to is not None
    processor = hf.CLIPImageProcessor(**AIMV2.processor_to(config))
    published = hf.CLIPImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, resample=3
    )
    for each in (processor, published):
        check_pictures(pixel_values(each), config.pixels, 12)


def test_native_pictures_are_not_resized() -> None:
    config = AIMV2.variants["aimv2_large_patch14_native"]
    assert AIMV2.processor_to is not None
    said = AIMV2.processor_to(config)
    assert (said["do_resize"], said["do_center_crop"]) == (False, False)
    for processor in (hf.CLIPImageProcessor(**said), hf.CLIPImageProcessor(do_resize=False, do_center_crop=False)):
        check_pictures(pixel_values(processor), config.pixels, 12)


def test_any_other_recipe_may_be_saved(tmp_path: Path) -> None:
    config = AIMV2.config_from({**TINY, "image_size": 56})
    native = replace(config, pixels=replace(config.pixels, rule="native_floor", size=None))
    assert AIMV2.config_to(native)["image_size"] == 56
