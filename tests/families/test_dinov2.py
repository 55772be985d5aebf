"""DINOv2, plain, gated and with registers, against transformers: outputs, gradients, pixels, both ways of naming."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from safetensors.torch import load_file
from tests.families import cases, parity
from tests.families.cases import DINO_TINY
from tests.families.parity import Pair
from tests.families.pictures import check_pictures, pixel_values

from tubelet import load_encoder
from tubelet.encoder.table import PositionTable
from tubelet.errors import ConfigError
from tubelet.families.catalogue import read_config
from tubelet.families.dinov2 import DINOV2, DINOV2_REGISTERS, FIELDS, FIELDS_REGISTERS

# ---- names and files


DINOV2S = pytest.mark.parametrize("pair", cases.DINOV2, ids=str, indirect=True, scope="module")


@DINOV2S
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
    model = hf.Dinov2ForImageClassification(hf.Dinov2Config(**DINO_TINY, image_size=56))
    parity.randomise(model)
    model.save_pretrained(tmp_path)
    rows = parity.random_rows([(1, 4, 4)], load_encoder(tmp_path).config)
    with torch.no_grad():
        ours = load_encoder(tmp_path)
        rows = parity.normalise(rows, ours.pixels)
        theirs = parity.run_images(model.dinov2.eval(), rows, ours.config, "encoder.layer")
        parity.compare(parity.run_ours(ours, rows), theirs)


@DINOV2S
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
    parity.check_variants(DINOV2, hf.Dinov2Model, hf.Dinov2Config)
    parity.check_variants(DINOV2_REGISTERS, hf.Dinov2WithRegistersModel, hf.Dinov2WithRegistersConfig)


def test_defaults_are_upstreams() -> None:
    for family, fields, config in (
        (DINOV2, FIELDS, hf.Dinov2Config()),
        (DINOV2_REGISTERS, FIELDS_REGISTERS, hf.Dinov2WithRegistersConfig()),
    ):
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
    tiny = DINOV2.config_from({**DINO_TINY, "mlp_ratio": 2})
    with pytest.raises(ConfigError, match="mlp_ratio"):
        DINOV2.config_to(replace(tiny, mlp=97))


# ---- positions and pixels


@pytest.mark.parametrize("grid", [(3, 1), (7, 1), (1, 5), (2, 9)])
def test_a_table_of_one_column_is_resized_right(grid: tuple[int, int]) -> None:
    """torch's antialiased resampling of channels-last values to a width of 1 takes wrong rows (as in torch 2.15), and
    upstream's table is channels-last. Twin: contiguous channels in float64."""
    config = DINOV2_REGISTERS.config_from({**DINO_TINY, "image_size": 64})
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
