"""The model, configuration, image processor and attention function as transformers' users meet them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.integrations.border_models import CONFIGS, PLAIN, random_encoder
from tests.integrations.transformers.test_transformers_upstream import write
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, AutoModel, pipeline

import tubelet
import tubelet.encoder.model as encoder_model
from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError, KeyMismatch, LimitError, ShapeError, UnsafeFile
from tubelet.families import onevision as ov
from tubelet.families.family import from_theirs
from tubelet.families.match import matches
from tubelet.integrations.transformers.model import TubeletConfig, TubeletImageProcessor, TubeletModel
from tubelet.packed import Item, Packed, all_positions
from tubelet.pixels.patchify import from_pixels, normalise, patchify
from tubelet.reading.clip import Clip

GOLDEN = Path(__file__).parents[2] / "golden" / "onevision"
GRIDS = [(1, 4, 6), (3, 2, 4), (1, 2, 2)]


def rows(config: EncoderConfig, seed: int = 1) -> Tensor:
    count = sum(t * h * w for t, h, w in GRIDS)
    return torch.randint(0, 256, (count, config.pixels.width), generator=torch.Generator().manual_seed(seed)).byte()


def packed(config: EncoderConfig) -> Packed:
    items = tuple(Item.of(*g, picture=i) for i, g in enumerate(GRIDS))
    block = config.pixels.merge if config.pixels.order == "block" else 1
    return Packed(rows(config), all_positions(items, merge=block), items, tuple(i.grid.rows for i in items))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = TubeletModel.from_encoder(random_encoder())
    model.save_pretrained(tmp_path / "model")
    TubeletImageProcessor.of(PLAIN.pixels).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


# ---- save and load


@pytest.mark.parametrize("name", CONFIGS)
def test_saved_and_loaded_is_the_same_model(name: str, tmp_path: Path):
    config = CONFIGS[name]
    encoder = random_encoder(config)
    TubeletModel.from_encoder(encoder).save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path)
    assert type(model) is TubeletModel
    assert model.encoder.config == config
    assert not model.training
    p = packed(config)
    with torch.no_grad():
        out = model(pixel_values=p.x, image_grid_thw=torch.tensor(GRIDS), output_hidden_states=True)
        tokens, states = encoder(p), encoder.hidden_states(p)
        assert torch.equal(out.last_hidden_state, tokens.x)
        assert [torch.equal(a, b.x) for a, b in zip(out.hidden_states, states, strict=True)] == [True] * len(states)
        if encoder.pool is None:
            assert out.pooler_output is None
        else:
            torch.testing.assert_close(out.pooler_output, encoder.pooled(encoder.trunk(p)), atol=1e-6, rtol=1e-6)


def test_a_new_process_needs_one_import_and_no_remote_code(folder: Path, tmp_path: Path):
    """Of a folder of ours, and of one of upstream's."""
    assert {f.name for f in folder.iterdir()} == {"config.json", "model.safetensors", "preprocessor_config.json"}
    assert "auto_map" not in (folder / "config.json").read_text()
    theirs = write(tmp_path / "theirs", "released")
    code = (
        "import tubelet.integrations.transformers, torch, sys\n"
        "from transformers import AutoConfig, AutoImageProcessor, AutoModel\n"
        "ours, theirs = sys.argv[1:]\n"
        "inputs = AutoImageProcessor.from_pretrained(ours)(images=torch.arange(3 * 8 * 12).view(3, 8, 12).byte())\n"
        "with torch.no_grad():\n"
        "    out = AutoModel.from_pretrained(ours)(**inputs)\n"
        "    out_theirs = AutoModel.from_pretrained(theirs)(torch.ones(1, 3, 8, 8))\n"
        "print(AutoConfig.from_pretrained(ours).model_type)\n"
        "print(*(o.pooler_output.double().sum().item().hex() for o in (out, out_theirs)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code, folder, theirs], capture_output=True, text=True, check=True)
    inputs = TubeletImageProcessor.of(PLAIN.pixels)(images=torch.arange(3 * 8 * 12).view(3, 8, 12).byte())
    upstream = tubelet.load_encoder(theirs)
    with torch.no_grad():
        out = TubeletModel.from_encoder(random_encoder())(**inputs).pooler_output
        out_theirs = upstream.pooled(upstream.trunk(from_pixels(torch.ones(1, 3, 8, 8), upstream.pixels)))
    kind, *said = run.stdout.split()[-3:]
    assert kind == "tubelet"
    for number, rows in zip(said, (out, out_theirs), strict=True):
        assert float.fromhex(number) == pytest.approx(rows.double().sum().item(), abs=1e-5)


def angles_in_float64(config: EncoderConfig, where: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of E = [a | a], from the definition alone."""
    unit = config.head_dim // 32
    parts = []
    for axis, share in enumerate((4, 6, 6)):
        n = share * unit
        parts.append(where[:, axis : axis + 1].double() * 10000.0 ** (-torch.arange(n).double() / n))
    e = torch.cat([torch.cat(parts, dim=1)] * 2, dim=1)
    return e.cos(), e.sin()


LOADING: dict[str, dict[str, Any]] = {
    "default": {},
    "bfloat16": {"dtype": torch.bfloat16},
    "by name": {"dtype": "float16"},
    "auto": {"dtype": "auto"},
    "low memory": {"low_cpu_mem_usage": True},
}


@pytest.mark.parametrize("how", LOADING)
def test_angles_are_right_after_from_pretrained(how: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """transformers 5 builds the model without memory and leaves buffers that are not saved as they come: there the
    angles of upstream's model are whatever was in memory. Here they are computed from the configuration."""
    model = AutoModel.from_pretrained(folder, **LOADING[how])
    check_angles(model, monkeypatch)


def test_angles_are_right_when_built_on_the_meta_device(folder: Path, monkeypatch: pytest.MonkeyPatch):
    with torch.device("meta"):
        model = AutoModel.from_config(AutoConfig.from_pretrained(folder))
    assert {p.device.type for p in model.parameters()} == {"meta"}
    model.to_empty(device="cpu")
    model.load_state_dict(load_file(str(folder / "model.safetensors")))
    check_angles(model, monkeypatch)
    check_angles(model.to(torch.bfloat16), monkeypatch)  # a cast would round buffers


def check_angles(model: TubeletModel, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not list(model.named_buffers())
    used = []
    real = encoder_model.rope_tables

    def noted(*args: Any) -> Any:
        used.append(real(*args))
        return used[-1]

    monkeypatch.setattr(encoder_model, "rope_tables", noted)
    where = torch.tensor([[63, 100, 100], [0, 0, 0], [7, 31, 2], [4000, 1, 5], [1, 2, 3], [9, 9, 9]])
    with torch.no_grad():
        model(torch.zeros(6, 48, dtype=torch.uint8), torch.tensor([[1, 2, 3]]), patch_positions=where)
    turn, flip = used[-1]
    assert turn.dtype == torch.float32
    cos, sin = (x.unflatten(1, (-1, 2)) for x in angles_in_float64(PLAIN, where))
    # both values of a pair: (A + B) and (A - B) are what multiplies them
    torch.testing.assert_close((turn + flip)[..., 0].double(), cos[..., 0], atol=5e-4, rtol=0)
    torch.testing.assert_close((turn - flip)[..., 0].double(), cos[..., 1], atol=5e-4, rtol=0)
    torch.testing.assert_close((turn - flip)[..., 1].double(), sin[..., 0], atol=5e-4, rtol=0)
    torch.testing.assert_close((turn + flip)[..., 1].double(), sin[..., 1], atol=5e-4, rtol=0)


def test_bfloat16_is_the_cast_model(folder: Path):
    encoder = random_encoder().to(torch.bfloat16)
    model = AutoModel.from_pretrained(folder, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    with torch.no_grad():
        out = model(rows(PLAIN), GRIDS)
        assert torch.equal(out.last_hidden_state, encoder(packed(PLAIN)).x)


@pytest.mark.parametrize("case", ["pack_mixed_image_video", "pack_no_head", "pack_rms_norm", "pack_eps"])
def test_golden_cases_of_upstream_through_this_door(case: str, tmp_path: Path):
    said = json.loads((GOLDEN / f"{case}.json").read_text())
    tensors = load_file(str(GOLDEN / f"{case}.safetensors"))
    config = ov.config_from({"model_type": "llava_vit_packing", **said["config"]})
    weights = {k.removeprefix("weight."): v for k, v in tensors.items() if k.startswith("weight.")}
    named = matches((ov.FAMILY,), weights)[0].named
    encoder = random_encoder(config)
    shapes = {k: tuple(t.shape) for k, t in encoder.state_dict().items()}
    encoder.load_state_dict(
        from_theirs(shapes, ov.FAMILY.formats["packing"], config, lambda name: weights[named[name]])
    )
    TubeletModel.from_encoder(encoder).save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path)
    with torch.no_grad():
        out = model(
            pixel_values=tensors["input.hidden_states"],
            image_grid_thw=tensors["input.grid_thw"],
            patch_positions=tensors.get("input.patch_positions"),
            output_hidden_states=True,
        )
    torch.testing.assert_close(out.last_hidden_state, tensors["output.last_hidden_state"], atol=1e-4, rtol=1e-4)
    for i, state in enumerate(out.hidden_states):
        torch.testing.assert_close(state, tensors[f"output.hidden_states.{i}"], atol=1e-4, rtol=1e-4)
    if config.pool:
        torch.testing.assert_close(out.pooler_output, tensors["output.pooler_output"], atol=1e-4, rtol=1e-4)


# ---- what is refused


def change(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("surprise", 1),
        ("hidden_size", "64"),
        ("hidden_size", 65),
        ("hidden_size", True),
        ("num_channels", 1),
        ("hidden_act", "relu"),
        ("image_mean", [0.5, 0.5]),
        ("rope_mode", "half"),
        ("attn_implementation", "someone/kernel"),
        ("use_kernels", True),
    ],
)
def test_a_configuration_is_a_closed_set_of_checked_fields(field: str, value: Any):
    good = {"hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 96, "patch_size": 4}
    assert TubeletConfig(**good).hidden_size == 64
    with pytest.raises(ConfigError):
        TubeletConfig(**{**good, field: value})


def test_code_in_a_configuration_file_is_refused(folder: Path):
    change(folder / "config.json", auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(ConfigError, match="auto_map"):
        TubeletModel.from_pretrained(folder)


def test_loading_is_strict(folder: Path):
    path = str(folder / "model.safetensors")
    state = load_file(path)
    name = "encoder.layers.1.fc1.bias"
    save_file({k: v for k, v in state.items() if k != name}, path, {"format": "pt"})
    with pytest.raises(KeyMismatch) as caught:
        AutoModel.from_pretrained(folder)
    assert caught.value.missing == (name,)
    save_file({**state, "more": torch.zeros(2)}, path, {"format": "pt"})
    with pytest.raises(KeyMismatch) as caught:
        AutoModel.from_pretrained(folder)
    assert caught.value.unexpected == ("more",)
    save_file(state, path, {"format": "pt"})
    model, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert torch.equal(model.encoder.norm_pre.bias, state["encoder.norm_pre.bias"])


def test_pickles_are_not_read(folder: Path):
    state = load_file(str(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        AutoModel.from_pretrained(folder)
    with pytest.raises(UnsafeFile):
        AutoModel.from_pretrained(folder, use_safetensors=False)


def test_rows_and_grids_that_do_not_fit():
    model = TubeletModel.from_encoder(random_encoder())
    with pytest.raises(ShapeError, match="36 rows"):
        model(rows(PLAIN), [(1, 6, 6)])
    with pytest.raises(ShapeError, match="image processor"):
        model(torch.zeros(1, 3, 8, 8), [(1, 2, 2)])
    with pytest.raises(ShapeError, match=r"\(N, 3\)"):
        model(rows(PLAIN), torch.tensor([1, 4, 6]))
    with pytest.raises(ShapeError, match="values"):
        model(rows(PLAIN)[:, :12], GRIDS)


# ---- outputs, training


def test_tuple_and_configured_outputs():
    model = TubeletModel.from_encoder(random_encoder())
    last, pooled = model(rows(PLAIN), GRIDS, return_dict=False)
    assert (last.shape, pooled.shape) == ((52, 64), (3, 64))
    model.config.output_hidden_states = True
    assert len(model(rows(PLAIN), GRIDS).hidden_states) == PLAIN.layers + 1
    assert model(rows(PLAIN), GRIDS, output_hidden_states=False).hidden_states is None


def test_float_rows_and_device_of_grids():
    model = TubeletModel.from_encoder(random_encoder())
    p = packed(PLAIN)
    with torch.no_grad():
        pixels = model(p.x, torch.tensor(GRIDS)).pooler_output
        floats = model(normalise(p, PLAIN.pixels).x, GRIDS).pooler_output
    torch.testing.assert_close(pixels, floats, atol=1e-4, rtol=1e-4)


def test_a_new_model_has_start_values():
    torch.manual_seed(0)
    model = AutoModel.from_config(TubeletConfig.of(PLAIN))
    state = model.encoder.state_dict()
    assert 0.5 < float(state["pool.probe"].std()) < 1.5
    assert 0.015 < float(state["layers.0.fc1.weight"].std()) < 0.025
    assert bool((state["norm_pre.weight"] == 1).all())
    assert bool((state["layers.0.qkv.bias"] == 0).all())
    assert all(bool(v.isfinite().all()) for v in state.values())


def gradients(model: TubeletModel) -> dict[str, Tensor]:
    model.zero_grad()
    out = model(rows(PLAIN), GRIDS)
    (out.last_hidden_state.square().mean() + out.pooler_output.sum()).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


NEW = hasattr(TubeletModel, "activation_checkpointing_enable")  # since transformers 5.23 the name of the two below


def test_gradient_checkpointing_recomputes_and_gives_the_same_gradients():
    model = TubeletModel.from_encoder(random_encoder()).train()
    runs: list[int] = []
    model.encoder.layers[1].register_forward_pre_hook(lambda *_: runs.append(1))
    plain = gradients(model)
    assert len(runs) == 1
    assert not model.encoder.options.gradient_checkpointing
    if NEW:
        with pytest.warns(FutureWarning, match="deprecated"):
            model.gradient_checkpointing_enable()
        assert model.is_activation_checkpointing
    else:
        model.gradient_checkpointing_enable()
        assert model.is_gradient_checkpointing
    assert model.encoder.options.gradient_checkpointing
    again = gradients(model)
    assert len(runs) == 3
    assert plain.keys() == again.keys()
    for name, value in plain.items():
        torch.testing.assert_close(value, again[name])
    model.activation_checkpointing_disable() if NEW else model.gradient_checkpointing_disable()
    gradients(model)
    assert len(runs) == 4


def test_checkpointing_in_ways_there_are_not():
    model = TubeletModel.from_encoder(random_encoder())
    enable: Any = model.activation_checkpointing_enable if NEW else model.gradient_checkpointing_enable
    with pytest.raises(ConfigError, match="use_reentrant"):
        enable({"use_reentrant": True})
    for other in ({"every_n_layers": 2}, {"offload": True}):
        with pytest.raises(ConfigError if NEW else TypeError, match="every layer" if NEW else "unexpected keyword"):
            enable(**other)
    assert not model.encoder.options.gradient_checkpointing


def test_attention_implementations(folder: Path):
    model = AutoModel.from_pretrained(folder)
    assert model.config._attn_implementation == "tubelet"
    with torch.no_grad():
        best = model(rows(PLAIN), GRIDS).last_hidden_state
        model.set_attn_implementation("sdpa")
        assert torch.equal(model(rows(PLAIN), GRIDS).last_hidden_state, best)
        assert model.encoder.options.backend == "sdpa"
    assert AutoModel.from_pretrained(folder, attn_implementation="sdpa").config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    with pytest.raises(ConfigError, match="eager"):
        model(rows(PLAIN), GRIDS)


# ---- the image processor


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_processed_pictures_are_those_of_the_library(folder: Path):
    processor = AutoImageProcessor.from_pretrained(folder)
    assert type(processor) is TubeletImageProcessor
    assert processor.recipe == PLAIN.pixels
    pictures = [noise(30, 41), noise(16, 20, 1)]
    clips = [Clip(a[None], (0.0,)) for a in pictures]
    want = patchify(clips, PLAIN.pixels)
    out = processor(images=pictures)
    assert out["image_grid_thw"].tolist() == [list(i.grid) for i in want.items]
    assert torch.equal(out["pixel_values"], normalise(want, PLAIN.pixels).x)
    raw = processor(pictures, do_normalize=False)
    assert torch.equal(raw["pixel_values"], want.x)
    as_numpy = processor(pictures, return_tensors="np")
    assert isinstance(as_numpy["pixel_values"], np.ndarray)
    assert processor(images=pictures[0])["image_grid_thw"].shape == (1, 3)


def test_every_kind_of_input_gives_the_same_rows(tmp_path: Path):
    picture = noise(24, 36)
    Image.fromarray(picture).save(tmp_path / "a.png")
    tensor = torch.from_numpy(picture)
    kinds = [
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        (tmp_path / "a.png").read_bytes(),
        Image.fromarray(picture),
        picture,
        picture.transpose(2, 0, 1),
        tensor,
        tensor.permute(2, 0, 1),
        Clip(picture[None], (0.0,)),
    ]
    processor = TubeletImageProcessor.of(PLAIN.pixels, do_normalize=False)
    out = processor(kinds)
    assert out["image_grid_thw"].tolist() == [[1, 6, 9]] * len(kinds)
    first, *rest = out["pixel_values"].split(54)
    assert all(torch.equal(first, r) for r in rest)


def test_pillow_pictures_are_turned_and_composited():
    picture = Image.fromarray(noise(8, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = TubeletImageProcessor.of(PLAIN.pixels)(images=with_exif(picture, exif))
    assert turned["image_grid_thw"].tolist() == [[1, 4, 2]]
    clear = Image.new("RGBA", (8, 8), (9, 9, 9, 0))
    assert set(TubeletImageProcessor.of(PLAIN.pixels, do_normalize=False)(clear)["pixel_values"].unique().tolist()) == {
        255
    }
    grey = TubeletImageProcessor.of(PLAIN.pixels, do_normalize=False)(np.full((8, 8), 7, np.uint8))
    assert set(grey["pixel_values"].unique().tolist()) == {7}


def with_exif(picture: Image.Image, exif: Image.Exif) -> Image.Image:
    picture.getexif().update(exif)
    return picture


def test_a_4d_array_is_a_clip():
    frames = np.stack([noise(8, 12, i) for i in range(5)])
    out = TubeletImageProcessor(patch_size=4, temporal_patch_size=2)(
        images=[frames, torch.from_numpy(frames).permute(0, 3, 1, 2)]
    )
    assert out["image_grid_thw"].tolist() == [[3, 2, 3]] * 2


def test_fields_of_one_call_and_of_loading(folder: Path):
    processor = AutoImageProcessor.from_pretrained(folder, size_rule="smart", max_pixels=256)
    assert processor.recipe.max_pixels == 256
    assert processor(noise(64, 64))["image_grid_thw"].tolist() == [[1, 4, 4]]
    assert processor(noise(64, 64), max_pixels=1024)["image_grid_thw"].tolist() == [[1, 8, 8]]
    assert processor.max_pixels == 256


@pytest.mark.parametrize(
    "said",
    [{"dtype": torch.float32}, {"torch_dtype": torch.float32}, {"code_revision": None}, {"device": "cpu"}],
    ids=str,
)
def test_keywords_of_transformers_loaders_are_theirs(said: dict[str, Any], folder: Path):
    assert AutoImageProcessor.from_pretrained(folder, **said).recipe == PLAIN.pixels


def test_a_pipeline_of_transformers_finds_both(folder: Path):
    found = pipeline("image-feature-extraction", model=str(folder))(Image.fromarray(noise(30, 41)))
    want = AutoModel.from_pretrained(folder)(**AutoImageProcessor.from_pretrained(folder)([noise(30, 41)]))
    torch.testing.assert_close(torch.tensor(found).squeeze(0), want[0].detach().squeeze(0), atol=1e-5, rtol=1e-5)


def test_what_the_processor_refuses(folder: Path):
    processor = AutoImageProcessor.from_pretrained(folder)
    with pytest.raises(ConfigError, match="do_resize"):
        processor(noise(8, 8), do_resize=True)
    with pytest.raises(ConfigError, match="crop"):
        TubeletImageProcessor(crop_pct=0.9)
    with pytest.raises(ConfigError, match="return_tensors"):
        processor(noise(8, 8), return_tensors="tf")
    with pytest.raises(ShapeError, match="uint8") as caught:
        processor([noise(8, 8), noise(8, 8) / 255.0])
    assert caught.value.item == 1
    with pytest.raises(LimitError) as limit:
        processor([noise(8, 8), noise(8, 8)], size_rule="smart", max_pixels=2)
    assert limit.value.item == 0
    change(folder / "preprocessor_config.json", auto_map={"AutoImageProcessor": "evil.Processor"})
    with pytest.raises(ConfigError, match="auto_map"):
        TubeletImageProcessor.from_pretrained(folder)


def test_a_video_file_by_its_path():
    walk = Path(__file__).parents[3] / "examples" / "walk.mp4"
    processor = TubeletImageProcessor(patch_size=16, do_normalize=False)
    out = processor(images=[walk, noise(32, 32)], num_frames=3)
    assert out["image_grid_thw"][0, 0] == 3
    alone = processor(images=[walk], num_frames=3)
    count = len(alone["pixel_values"])
    assert torch.equal(out["pixel_values"][:count], alone["pixel_values"])


def test_the_public_example_runs():
    assert (
        tubelet.untrained("llava_vit_packing_small").config
        == TubeletConfig.of(tubelet.untrained("llava_vit_packing_small").config).encoder_config()
    )
