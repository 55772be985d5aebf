"""DINOv2, plain, gated and with registers, against transformers: outputs, gradients, pixels, both ways of naming."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from safetensors.torch import load_file
from tests.families import parity
from tests.families.parity import Case, Pair
from tests.families.pictures import check_pictures, pixel_values

from tubelet import load_encoder
from tubelet.encoder.table import PositionTable
from tubelet.errors import ConfigError
from tubelet.families.catalogue import read_config
from tubelet.families.dinov2 import DINOV2, DINOV2_REGISTERS, FIELDS, FIELDS_REGISTERS

GRIDS = [(1, 5, 5), (1, 3, 7), (1, 8, 2), (1, 1, 1), (1, 6, 9)]
CLIPS = [(1, 4, 4), (3, 2, 5), (1, 4, 2)]
TINY: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
MID: dict[str, Any] = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 8}
PLAIN, REGISTERS = hf.Dinov2Config, hf.Dinov2WithRegistersConfig

CASES = [
    (DINOV2, PLAIN(**TINY, image_size=74, mlp_ratio=3), GRIDS),  # 74 is 5.29 patches
    (DINOV2, PLAIN(**TINY, image_size=56, use_swiglu_ffn=True, qkv_bias=False, layer_norm_eps=1e-5), CLIPS),
    (DINOV2, PLAIN(**MID, image_size=518, use_swiglu_ffn=True), [(1, 16, 16), (1, 12, 20), (1, 31, 8)]),
    (DINOV2_REGISTERS, REGISTERS(**TINY, image_size=80, num_register_tokens=3), GRIDS),
    (DINOV2_REGISTERS, REGISTERS(**TINY, image_size=64, num_register_tokens=0, hidden_act="quick_gelu"), CLIPS),
    (DINOV2_REGISTERS, REGISTERS(**MID, image_size=256, use_swiglu_ffn=True), [(1, 16, 16), (1, 12, 20)]),
]


def of(family: Any, config: Any, grids: Any) -> Case:
    model = hf.Dinov2Model if family is DINOV2 else hf.Dinov2WithRegistersModel
    return Case(family.name, model, config, parity.run_images, grids, "encoder.layer")


@pytest.fixture(scope="module", params=range(len(CASES)), ids=lambda i: f"{CASES[i][0].name}-{i}")
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    family, config, grids = CASES[request.param]
    return parity.written(of(family, config, grids), family, tmp_path_factory.mktemp("dinov2"))


def test_outputs(pair: Pair) -> None:
    found = parity.check_outputs(pair)
    assert "prefix" in found
    assert ("pooled" in found) == all(t == 1 for t, _, _ in pair.case.grids)


def test_packing(pair: Pair) -> None:
    parity.check_packing(pair)


def test_gradients(pair: Pair) -> None:
    parity.check_gradients(pair)


def test_bf16(pair: Pair) -> None:
    parity.check_bf16(pair)


def test_save_back(pair: Pair, tmp_path: Path) -> None:
    parity.check_save_back(pair, tmp_path / "out")


# ---- names and files


def test_the_names_modules_have_load_as_well(pair: Pair, tmp_path: Path) -> None:
    """A state_dict of transformers 5 written as it is, and the stored names that the hub has."""
    said = pair.case.config.to_dict()
    folder = parity.write_checkpoint(tmp_path / "modules", pair.peer.state_dict(), said, shards=2)
    ours = load_encoder(folder).state_dict()
    stored = load_file(pair.folder / "model.safetensors")
    assert not stored.keys() & {"encoder.layer.0.attention.q_proj.weight", "encoder.layer.0.mlp.gate_proj.weight"}
    for name, tensor in pair.ours.state_dict().items():
        assert torch.equal(ours[name], tensor), name


def test_a_classifier_gives_its_tower(tmp_path: Path) -> None:
    model = hf.Dinov2ForImageClassification(PLAIN(**TINY, image_size=56))
    parity.randomise(model)
    model.save_pretrained(tmp_path)
    rows = parity.random_rows([(1, 4, 4)], load_encoder(tmp_path).config)
    with torch.no_grad():
        ours = load_encoder(tmp_path)
        rows = parity.normalise(rows, ours.pixels)
        theirs = parity.run_images(model.dinov2.eval(), rows, ours.config, "encoder.layer")
        parity.compare(parity.run_ours(ours, rows), theirs)


def test_a_mask_token_may_be_absent(pair: Pair, tmp_path: Path) -> None:
    tensors = load_file(pair.folder / "model.safetensors")
    del tensors["embeddings.mask_token"]
    ours = load_encoder(parity.write_checkpoint(tmp_path / "bare", tensors, pair.case.config.to_dict()))
    with torch.no_grad():
        assert torch.equal(ours(pair.rows).x, pair.ours(pair.rows).x)


# ---- configurations


@pytest.mark.parametrize("family", [DINOV2, DINOV2_REGISTERS], ids=lambda f: f.name)
def test_variants_say_themselves(family: Any) -> None:
    for name, config in family.variants.items():
        assert family.config_from(family.config_to(config)) == config, name
        assert config.table is not None
        assert (config.table.height, config.prefix) == (37, 5 if family is DINOV2_REGISTERS else 1)
    assert family.variants[f"{family.name}_giant"].mlp == 4096


def test_variants_are_upstreams_sizes() -> None:
    parity.check_variants(DINOV2, hf.Dinov2Model, PLAIN)
    parity.check_variants(DINOV2_REGISTERS, hf.Dinov2WithRegistersModel, REGISTERS)


def test_defaults_are_upstreams() -> None:
    for family, fields, config in ((DINOV2, FIELDS, PLAIN()), (DINOV2_REGISTERS, FIELDS_REGISTERS, REGISTERS())):
        said = config.to_dict()
        assert {n: said[n] for n in fields} == {n: getattr(f, "default", f) for n, f in fields.items()}
        assert family.config_from({}) == read_config(said, family, family.name)


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({"image_size": 13}, "image_size"),
        ({"mlp_ratio": 2.5}, "mlp_ratio"),
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"num_channels": 1}, "num_channels"),
        ({"image_sise": 16}, "image_sise"),
        ({"auto_map": {}}, "auto_map"),
    ],
)
def test_what_it_cannot_be_is_refused(config: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        DINOV2.config_from(config)


def test_a_width_no_ratio_gives_cannot_be_written() -> None:
    tiny = DINOV2.config_from({**TINY, "mlp_ratio": 2})
    with pytest.raises(ConfigError, match="mlp_ratio"):
        DINOV2.config_to(type(tiny)(**{**vars(tiny), "mlp": 97}))


# ---- positions and pixels


@pytest.mark.parametrize("grid", [(3, 1), (7, 1), (1, 5), (2, 9)])
def test_a_table_of_one_column_is_resized_right(grid: tuple[int, int]) -> None:
    """torch's antialiased resampling of channels-last values to a width of 1 takes wrong rows (as in torch 2.15), and
    upstream's table is channels-last. Twin: contiguous channels in float64."""
    config = DINOV2_REGISTERS.config_from({**TINY, "image_size": 64})
    assert config.table is not None
    table = PositionTable(config.table, 48)
    weight = torch.randn(16, 48, generator=torch.Generator().manual_seed(0))
    table.load_state_dict({"weight": weight, "prefix": torch.zeros(1, 48)})
    picture = weight.double().T.reshape(1, 48, 4, 4).contiguous()
    twin = F.interpolate(picture, size=grid, mode="bicubic", antialias=True)[0].flatten(1).T
    torch.testing.assert_close(table.resized(*grid, torch.device("cpu")).double(), twin, atol=1e-5, rtol=1e-5)


def test_pixels_are_the_processors() -> None:
    config = DINOV2.variants["dinov2_base"]
    with_registers = DINOV2_REGISTERS.variants["dinov2_with_registers_base"]
    assert with_registers.pixels == config.pixels
    assert DINOV2.processor_to is not None
    assert DINOV2_REGISTERS.processor_to is not None
    said = DINOV2.processor_to(config)
    assert DINOV2_REGISTERS.processor_to(with_registers) == said
    published = hf.BitImageProcessor(  # as convert_dinov2_to_hf.py makes it
        size={"shortest_edge": 256},
        resample=3,
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )
    for processor in (hf.BitImageProcessor(**said), published):
        check_pictures(pixel_values(processor), config.pixels, 12)
