"""benchmarks/growth.py at toy sizes: it measures, tells and draws; a peer that would take too much memory ends."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image


@pytest.fixture
def growth(benchmark_of: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark_of("growth")


@pytest.mark.filterwarnings("ignore")
def test_it_measures_and_draws(growth: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    kept = growth.Kept(tmp_path, growth.TOY)
    with torch.inference_mode():
        kept.memory(growth.TOY.sizes, list(growth.SWEEPS), ["float32"])
        kept.turn(growth.TOY.sizes, list(growth.SWEEPS), ["float32"])
    found = growth.Kept(tmp_path, growth.TOY).result()["float32"]  # from what was kept
    assert list(found) == list(growth.SWEEPS)
    for name, of in found.items():
        peers = [tower.peer for tower in growth.SWEEPS[name].towers]
        assert list(of["seconds"]["columns"]) == ["tokens", "tubelet", *peers]
        assert list(of["peak MiB"]["columns"]) == ["tokens", "tubelet", *peers, "planned"]
        assert all(len(column) == 2 for column in of["seconds"]["columns"].values())
    assert found["siglip2"]["padding"] > found["single"]["padding"] == 1.0
    growth.draw(found, "float32", "64 channels", tmp_path / "growth.png")
    with Image.open(tmp_path / "growth.png") as picture:
        assert set(growth.COLOURS.values()) <= {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or ()}


def test_a_peer_ends_before_it_would_take_too_much(
    growth: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    measured = []

    def peaks(sweep: object, scale: object, size: int, dtype: str, names: list[str]) -> dict[str, int]:
        measured.append((size, names))
        return {name: size * (5 << 30) if name.startswith("timm") else size for name in ("tubelet", *names)}

    def seconds(sweep: object, scale: object, size: int, dtype: str, names: list[str]) -> dict[str, object]:
        times = {name: {"wall_s": float(size)} for name in ("tubelet", *names)}
        more = {"padding": 2.5, "noisy": False, "planned_bytes": 1, "planned_flop": 1e9, "products_flop_per_s": 1e9}
        return {"tokens": 1000 * size, "times": times, **more}

    monkeypatch.setattr(growth, "peaks", peaks)
    monkeypatch.setattr(growth, "seconds", seconds)
    kept = growth.Kept(tmp_path, growth.TOY)
    kept.memory([1, 2, 4], ["siglip2"], ["bfloat16"])
    kept.turn([1, 2, 4], ["siglip2"], ["bfloat16"])
    both = ["transformers SigLIP2 NaFlex", "timm NaFlexViT"]
    assert measured == [(1, both), (2, both[:1]), (4, both[:1])]
    columns = kept.result()["bfloat16"]["siglip2"]["seconds"]["columns"]
    assert columns["timm NaFlexViT"] == [1.0, None, None]
    curve = growth.panels(kept.result()["bfloat16"]["siglip2"], "bfloat16")[0].curves[2]
    assert (curve.ended, curve.x) == (True, (1000,))


def test_a_pack_has_as_many_tokens_at_most(growth: ModuleType):
    for sweep in growth.SWEEPS.values():
        for thousands in growth.SIZES[: growth.SIZES.index(sweep.most) + 1]:
            tokens = sum(h * w for _, h, w in sweep.grids(1024 * thousands))
            assert 0.96 * 1024 * thousands <= tokens <= 1024 * thousands
