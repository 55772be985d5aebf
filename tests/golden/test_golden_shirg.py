"""Golden cases of SHIRG: the committed choice always, and all of the fixtures beside the repository if any."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tubelet.reduce.history.fovea import METHODS
from tubelet.reduce.history.versions import VERSIONS

from .cases import find_cases, load_case, run_case
from .runners import SHIRG
from .runners.shirg import version_of

HERE = Path(__file__).parent / "shirg"
ALL = Path(__file__).parents[3] / "shared" / "golden" / "shirg" / "open"
OURS = (*SHIRG, "upstream", "lavida", "position")
COMMITTED = [p for p in find_cases(HERE) if p.stem.partition("_")[0] in OURS]
FURTHER = [p for p in find_cases(ALL) if p.stem.partition("_")[0] in OURS] if ALL.is_dir() else []


@pytest.mark.parametrize("path", COMMITTED, ids=lambda p: p.stem)
def test_committed_case(path: Path):
    result = run_case(path)
    assert result.passed, result.line


def test_all_cases_beside_the_repository(record_property: Callable[[str, object], None]):
    results = [run_case(path) for path in FURTHER]
    record_property("say", f"golden shirg: {len(COMMITTED)} committed cases, {len(results)} beside the repository")
    assert not [r.line for r in results if not r.passed]


def test_the_committed_choice_has_every_version():
    """But those that differ from another one in a number, a view or a weight: beside the repository, or in a test."""
    selections = [path for path in COMMITTED if path.stem.partition("_")[0] in SHIRG]
    cases = [load_case(path) for path in selections if "tokens" in load_case(path).outputs]
    parts = ("v1_forward", "fovea2_merge_similar", "token_dropout")
    named = {version_of(case)[0] for case in cases if not case.name.startswith(parts)} | {"shirg-v1"}
    of_fovea = {f"shirg-fovea2-{method}" for method in METHODS if method != "full"}
    assert set(VERSIONS) - named == of_fovea | {"shirg-v2-views", "shirg-v2-summary", "shirg-fixed-1152"}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("v2_single_notext", "output.tokens"),
        ("fixed768", "output.index"),
        ("x_components", "output.merged_coords"),
        ("v1_forward_ward", "output.group_of_token"),
        ("token_dropout_structured", "output.mask"),
        ("lavida_best_resolution", "output.grid_wh"),
        ("position_table_27_to_24", "output.interpolated"),
        ("upstream_metrics_small", "output.spatial_coherence"),
    ],
)
def test_another_output_fails(tmp_path: Path, name: str, change: str):
    state = load_file(str(HERE / f"{name}.safetensors"))
    value = state[change]
    state[change] = ~value if value.dtype == torch.bool else value + (1 if not value.is_floating_point() else 1e-2)
    (tmp_path / f"{name}.json").write_text((HERE / f"{name}.json").read_text(encoding="utf-8"), encoding="utf-8")
    save_file(state, str(tmp_path / f"{name}.safetensors"))
    assert not run_case(tmp_path / f"{name}.json").passed


def test_another_budget_or_version_fails(tmp_path: Path):
    for name, params in (
        ("v3_attention", {"K": 63}),
        ("fovea2_full_passes", {"K": 48, "method": "base", "params": {}}),
    ):
        meta = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8")) | {"params": params}
        (tmp_path / f"{name}.json").write_text(json.dumps(meta), encoding="utf-8")
        (tmp_path / f"{name}.safetensors").write_bytes((HERE / f"{name}.safetensors").read_bytes())
        assert not run_case(tmp_path / f"{name}.json").passed
