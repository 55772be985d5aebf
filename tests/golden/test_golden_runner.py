"""The runner itself: it must fail when anything is wrong, or its passes mean nothing."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tubelet.families import onevision as ov

from .__main__ import main
from .cases import run_case

HERE = Path(__file__).parent / "onevision"


def changed(folder: Path, name: str, *, config: dict[str, object] | None = None, **tensors: Tensor) -> Path:
    """A copy of a committed case with some configuration or tensors replaced ("." in a tensor's name is "__" here)."""
    meta = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    meta["config"] |= config or {}
    state = load_file(str(HERE / f"{name}.safetensors"))
    for key, value in tensors.items():
        state[key.replace("__", ".")] = value
    (folder / f"{name}.json").write_text(json.dumps(meta), encoding="utf-8")
    save_file({k: v.contiguous() for k, v in state.items()}, str(folder / f"{name}.safetensors"))
    return folder / f"{name}.json"


def tensors_of(name: str) -> dict[str, Tensor]:
    return load_file(str(HERE / f"{name}.safetensors"))


def test_an_unchanged_copy_passes(tmp_path: Path):
    assert run_case(changed(tmp_path, "pack_eps")).passed


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("pack_eps", {"layer_norm_eps": 1e-5}),
        ("pack_eps", {"layer_norm_eps": 0.0}),
        ("pack_rope_theta", {"rope_theta": 10000.0}),
        ("pack_gelu_tanh", {"hidden_act": "gelu"}),
        ("pack_gradients", {"num_attention_heads": 1}),
        ("ov2_merge2_window4", {"frame_windows_size": 0}),
        ("ov2_merge2_window4", {"frame_windows_size": 1}),
        ("ov2_merge2_window4", {"spatial_merge_size": 4}),
        ("preprocess_packing_input", {"patch_size": 16}),
        ("pack_no_head", {"use_head": True}),
    ],
    ids=str,
)
def test_a_wrong_configuration_fails(tmp_path: Path, name: str, config: dict[str, object]):
    assert not run_case(changed(tmp_path, name, config=config)).passed


@pytest.mark.parametrize("order", [(0, 2, 1), (1, 0, 2)], ids=["h and w swapped", "t and h swapped"])
def test_swapped_axes_fail(tmp_path: Path, order: tuple[int, int, int]):
    place = tensors_of("pack_mixed_image_video")["input.patch_positions"]
    case = changed(tmp_path, "pack_mixed_image_video", input__patch_positions=place[:, list(order)])
    assert not run_case(case).passed


def test_swapped_q_and_k_fail(tmp_path: Path):
    name = "weight.encoder.layers.0.self_attn.qkv.weight"
    q, k, v = tensors_of("pack_rms_norm")[name].chunk(3)
    case = changed(tmp_path, "pack_rms_norm", **{name.replace(".", "__"): torch.cat([k, q, v])})
    assert not run_case(case).passed


def test_one_wrong_bit_in_a_converted_tensor_fails(tmp_path: Path):
    name = "output.packing.encoder.layers.1.self_attn.qkv.bias"
    bias = tensors_of("convert_standard_to_packing")[name].clone()
    bias[5] = torch.nextafter(bias[5], torch.tensor(9.0))
    result = run_case(changed(tmp_path, "convert_standard_to_packing", **{name.replace(".", "__"): bias}))
    assert not result.passed
    assert "must be equal" in result.line


def test_a_small_gradient_error_fails(tmp_path: Path):
    name = "output.grad.head.probe"
    wrong = tensors_of("pack_gradients")[name] + 5e-5
    assert not run_case(changed(tmp_path, "pack_gradients", **{name.replace(".", "__"): wrong})).passed


def test_an_output_nobody_checks_fails(tmp_path: Path):
    for name in ("temporal_tables", "ov2_tables", "std_residual_topk", "preprocess_clip_llava"):
        result = run_case(changed(tmp_path, name, output__mystery=torch.zeros(2)))
        assert result.line == f"FAIL {name}  output mystery not checked"


def test_an_output_the_project_does_not_give_fails(tmp_path: Path):
    result = run_case(changed(tmp_path, "pack_no_head", output__pooler_output=torch.zeros(2, 64)))
    assert result.line == "FAIL pack_no_head  output pooler_output is not one the project gives"


def test_another_property_of_a_tower_fails(tmp_path: Path):
    path = changed(tmp_path, "tower_packing")
    meta = json.loads(path.read_text(encoding="utf-8"))
    meta["extra"]["properties"]["slicefour_patch@-2"]["hidden_size"] = 32
    path.write_text(json.dumps(meta), encoding="utf-8")
    assert "properties of slicefour_patch@-2: hidden_size is 128, expected 32" in run_case(path).line
    meta["extra"]["properties"] = {"mlp2x_gelu": {"num_patches": 16}}
    path.write_text(json.dumps(meta), encoding="utf-8")
    assert "num_patches" in run_case(path).line


@pytest.mark.parametrize(
    "change",
    [
        {"output__patch@-2__hw": torch.tensor([6, 4])},  # h and w swapped
        {"output__patch@-2__list_hw": torch.tensor([2, 3])},  # of the second image
        {"output__patch@-2__list1": torch.zeros(1, 6, 32)},  # the standard tower's shape
        {"input__list0": torch.zeros(3, 16, 24)},
        {"output__patch@-2__list3": torch.zeros(6, 32)},  # an image there is none of
        {"output__patch@-3__batch": torch.zeros(3, 24, 32)},
    ],
    ids=lambda c: next(iter(c)),
)
def test_another_tower_fails(tmp_path: Path, change: dict[str, Tensor]):
    assert not run_case(changed(tmp_path, "tower_packing", **change)).passed


@pytest.mark.parametrize(
    ("name", "config", "change"),
    [
        ("projector_spatial_merge", {}, {"input__hw0": torch.tensor([8, 6])}),
        ("projector_spatial_merge", {}, {"output__inferred_hw1": torch.tensor([10, 2])}),
        ("projector_spatial_merge", {}, {"output__infer_table": torch.tensor([[576, 18, 32]])}),
        ("projector_spatial_merge", {}, {"output__grad__ln_q__weight": torch.zeros(32)}),
        ("projector_spatial_merge", {}, {"output__grad__mystery": torch.zeros(32)}),
        ("projector_spatial_merge", {}, {"output__mystery": torch.zeros(32)}),
        ("projector_spatial_merge", {"spatial_merge_size": 3}, {}),
        ("projector_spatial_merge", {"llm_dim": 41}, {}),
        ("projector_others", {"image_size": 20}, {}),
        ("projector_others", {"hidden_size": 41}, {}),
        ("projector_others", {}, {"weight__mlp2x_gelu__4__bias": torch.zeros(40)}),
        ("projector_others", {}, {"output__resampler": torch.zeros(2, 36, 40)}),
        ("projector_others", {}, {"output__patch_merger": torch.zeros(2, 9, 40)}),
    ],
    ids=str,
)
def test_another_projector_fails(tmp_path: Path, name: str, config: dict[str, object], change: dict[str, Tensor]):
    assert not run_case(changed(tmp_path, name, config=config, **change)).passed


def test_an_unknown_weight_fails(tmp_path: Path):
    result = run_case(changed(tmp_path, "pack_eps", weight__head__gate=torch.zeros(2)))
    assert "head.gate" in result.line


def test_another_meaning_of_visible_indices_fails(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ov, "head_visible", lambda grid, visible, places: ov.standard_visible(grid, None))
    assert not run_case(HERE / "head_video_visible_as_positions.json").passed


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    changed(tmp_path, "temporal_tables")
    assert main([str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 passed, 0 failed"
    (tmp_path / "unheard_of.json").write_text("{}", encoding="utf-8")
    save_file({"output.x": torch.zeros(1)}, str(tmp_path / "unheard_of.safetensors"))
    (tmp_path / "pack_half.json").write_text("{}", encoding="utf-8")
    assert main([str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "1 passed, 2 failed"
    assert "FAIL unheard_of  no runner for unheard_of" in lines
    assert "FAIL pack_half  pack_half.safetensors is missing" in lines


def test_an_empty_or_absent_folder_is_no_success(tmp_path: Path):
    assert main([str(tmp_path)]) == 1
    assert main([str(tmp_path / "none")]) == 2
    assert main([]) == 2
