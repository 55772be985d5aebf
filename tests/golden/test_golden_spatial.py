"""Golden cases of Spatial-MLLM: the committed choice always, and those of the fixtures beside the repository if any."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from .cases import find_cases, load_case, run_case
from .runners import SPATIAL, runner_for

HERE = Path(__file__).parent / "spatial"
ALL = Path(__file__).parents[3] / "shared" / "golden" / "spatial" / "open"
PREFIXES = tuple(SPATIAL)
COMMITTED = find_cases(HERE)
FURTHER = [p for p in find_cases(ALL) if p.stem.startswith(PREFIXES)] if ALL.is_dir() else []


def test_the_committed_choice_is_there():
    kinds = {path.stem.partition("_")[0] for path in COMMITTED}
    assert kinds == {"rope", "mrope", "camera", "pose", "merge", "lie"}
    assert all(path.with_suffix(".safetensors").is_file() for path in COMMITTED)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda p: p.stem)
def test_committed_case(path: Path):
    assert runner_for(load_case(path)) is not None
    result = run_case(path)
    assert result.passed, result.line


def test_all_cases_beside_the_repository(record_property: Callable[[str, object], None]):
    results = [run_case(path) for path in FURTHER]
    record_property("say", f"golden spatial: {len(COMMITTED)} committed cases, {len(results)} beside the repository")
    assert not [r.line for r in results if not r.passed]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("rope_index_one_video", {"tokens_per_second": 4}),
        ("rope_index_one_video", {"spatial_merge_size": 1}),
        ("rope_index_q3_video", {"spatial_merge_size": 1}),
        ("rope_index_mixed", {"image_token_id": 151656, "video_token_id": 151655}),
        ("mrope_apply_3d", {"mrope_section": [6, 6, 4]}),
        ("mrope_apply_3d", {"rope_theta": 10000.0}),
        ("mrope_apply_4d", {"mrope_section": [6, 6, 2, 2]}),
        ("camera_encs_to_Ks_viewmats", {"image_size_hw": [644, 476]}),
        ("pose_enc_from_extri_intri", {"image_size_hw": [644, 476]}),
        ("lie_scalar_index", {"variants": {"default": {}, "lam2_ref3": {"reference": 3}, "nonorm": {}}}),
    ],
    ids=str,
)
def test_a_wrong_configuration_fails(tmp_path: Path, name: str, change: dict[str, object]):
    meta = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    meta["config"] |= change
    (tmp_path / f"{name}.json").write_text(json.dumps(meta), encoding="utf-8")
    save_file(load_file(str(HERE / f"{name}.safetensors")), str(tmp_path / f"{name}.safetensors"))
    assert not run_case(tmp_path / f"{name}.json").passed
