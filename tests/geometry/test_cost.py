"""What a VGGT is said to cost is what torch counts while it runs."""

import pytest
import torch
from tests.geometry.test_vggt import WIDTH, full, packed, tiny
from tests.inspect.budget.budget_cases import counted as counted_by_torch

from tubelet.errors import ShapeError
from tubelet.geometry.cost import vggt_macs
from tubelet.geometry.heads import CameraConfig, DPTConfig
from tubelet.geometry.vggt import VGGT_1B, VGGTConfig, untrained_vggt, vggt_config


def counted(config: VGGTConfig, frames: int, h: int, w: int) -> int:
    return counted_by_torch(lambda: untrained_vggt(config).run(packed(torch.zeros(frames, 3, 14 * h, 14 * w))))


@pytest.mark.parametrize("frames, h, w", [(1, 3, 3), (3, 4, 5), (5, 2, 7)])
def test_parts_together_are_what_torch_counts(frames: int, h: int, w: int):
    found = vggt_macs(full(), frames, 14 * h, 14 * w)
    assert list(found) == ["patches", "frame", "scene", "camera", "depth", "points"]
    assert min(found.values()) > 0
    assert 2 * sum(found.values()) == counted(full(), frames, h, w)


def test_without_heads_and_with_a_matrix_for_patches():
    bare = vggt_config(layers=2, width=WIDTH, heads=2, patch_layers=None)
    found = vggt_macs(bare, 2, 28, 42)
    assert found["patches"] == 2 * 6 * 588 * WIDTH
    assert (found["camera"], found["depth"], found["points"]) == (0, 0, 0)
    assert 2 * sum(found.values()) == counted(bare, 2, 2, 3)


def test_each_head_is_counted_by_itself():
    whole, none = vggt_macs(full(), 3, 42, 56), vggt_macs(tiny(), 3, 42, 56)
    head = DPTConfig(2 * WIDTH, (0, 1, 1, 0), (8, 8, 8, 8), 8)
    for name, config in (("camera", tiny(camera=CameraConfig(2 * WIDTH, 1, 2))), ("depth", tiny(depth=head))):
        alone = vggt_macs(config, 3, 42, 56)
        assert alone == none | {name: whole[name]}
        assert 2 * sum(alone.values()) == counted(config, 3, 3, 4)


def test_the_published_network_costs_what_arithmetic_says():
    """16 frames of 644 x 476: 1569 rows a frame, 24 layers of 12 C^2 a row and 2 C n^2."""
    found, c, p = vggt_macs(VGGT_1B, 16, 476, 644), 1024, 1569
    linear = 24 * 16 * p * 12 * c * c
    assert found["frame"] == linear + 24 * 2 * c * 16 * p * p
    assert found["scene"] == linear + 24 * 2 * c * (16 * p) ** 2
    assert found["patches"] == found["frame"] + 16 * 34 * 46 * 588 * c
    assert sum(found[part] for part in ("patches", "frame", "scene")) == pytest.approx(57.6e12, rel=2e-3)
    assert vggt_macs(VGGT_1B, 32, 476, 644)["scene"] == pytest.approx(139e12, rel=5e-3)


@pytest.mark.parametrize("frames, height, width", [(0, 28, 28), (1, 27, 28), (1, 28, 0)])
def test_no_scene_costs_nothing_but_an_error(frames: int, height: int, width: int):
    with pytest.raises(ShapeError, match="whole patches"):
        vggt_macs(VGGT_1B, frames, height, width)
