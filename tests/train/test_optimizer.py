"""Optimizers against torch's own, groups by name, and the schedules."""

import math

import pytest
import torch
from tests.train.train_toy import Toy
from torch import nn

from tubelet.errors import ConfigError
from tubelet.train.config import OptimizerConfig, ScheduleConfig
from tubelet.train.optimizer import Muon, build_optimizers, factor, make_room, orthogonal, set_rates, state_tensors


def test_muon_is_torchs_where_matrices_are_whole():
    torch.manual_seed(0)
    shapes = [(8, 8), (24, 8), (8, 24), (8, 8)]
    mine = [nn.Parameter(torch.randn(s)) for s in shapes]
    theirs = [nn.Parameter(p.detach().clone()) for p in mine]
    ours = Muon([{"params": mine, "parts": [1] * 4}], lr=0.02, momentum=0.95, weight_decay=0.1)
    peer = torch.optim.Muon(theirs, lr=0.02, momentum=0.95, weight_decay=0.1)
    for _ in range(5):
        for a, b in zip(mine, theirs, strict=True):
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
        ours.step()
        peer.step()
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-3)  # bfloat16 products in another order


def test_stacked_matrices_are_made_orthogonal_apart():
    torch.manual_seed(0)
    fused = nn.Parameter(torch.randn(24, 8))
    apart = [nn.Parameter(piece.detach().clone()) for piece in fused.chunk(3)]
    one = Muon([{"params": [fused], "parts": [3]}], lr=0.1)
    three = Muon([{"params": apart, "parts": [1, 1, 1]}], lr=0.1)
    fused.grad = torch.randn(24, 8)
    for p, grad in zip(apart, fused.grad.chunk(3), strict=True):
        p.grad = grad.clone()
    one.step()
    three.step()
    torch.testing.assert_close(fused, torch.cat(apart), rtol=0, atol=1e-6)
    with pytest.raises(ConfigError, match="not 3 matrices"):
        Muon([{"params": [nn.Parameter(torch.zeros(4, 4))], "parts": [3]}])


def test_orthogonal_is_near_u_v():
    torch.manual_seed(0)
    for shape in ((12, 20), (20, 12)):
        m = torch.randn(shape)
        values = torch.linalg.svdvals(orthogonal(m).float())
        assert values.min() > 0.5 and values.max() < 1.3
        u, _, v = torch.linalg.svd(m, full_matrices=False)
        assert (orthogonal(m).float() * (u @ v)).sum() / 12 > 0.8


def test_groups_have_names():
    muon, adamw = build_optimizers(Toy(), OptimizerConfig(kind="muon", weight_decay=0.1))
    names = {g["name"]: g["names"] for o in (muon, adamw) for g in o.param_groups}
    assert "blocks.0.qkv.weight" in names["muon"] and "projector.0.weight" in names["muon"]
    assert names["adamw_no_decay"][:2] == ["odd", "projector.0.bias"] and "embed.weight" in names["adamw_no_decay"]
    assert "adamw" not in names and not any("tower" in n for group in names.values() for n in group)
    assert dict(zip(names["muon"], muon.param_groups[0]["parts"], strict=True))["blocks.1.qkv.weight"] == 3
    (adamw,) = build_optimizers(Toy(), OptimizerConfig(weight_decay=0.1))
    assert [(g["name"], g["weight_decay"]) for g in adamw.param_groups] == [("adamw", 0.1), ("adamw_no_decay", 0.0)]
    trained = [p for p in Toy().parameters() if p.requires_grad]
    assert sum(p.numel() for g in adamw.param_groups for p in g["params"]) == sum(p.numel() for p in trained)


@pytest.mark.parametrize("kind", ["cosine", "linear", "constant"])
def test_schedules(kind: str):
    config = ScheduleConfig(kind, warmup_steps=10, decay_from=0.5, final=0.1)  # type: ignore[arg-type]
    values = [factor(config, step, 100) for step in range(100)]
    assert values[:10] == pytest.approx([i / 10 for i in range(1, 11)])
    assert values[10:51] == [1.0] * 41
    if kind == "constant":
        assert values[51:] == [1.0] * 49
    else:
        assert values[51:] == sorted(values[51:], reverse=True) and 0.1 < values[-1] < 0.12
        middle = {"linear": 0.55, "cosine": 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 2))}[kind]
        assert values[75] == pytest.approx(middle)


def test_a_schedule_that_never_falls():
    assert factor(ScheduleConfig("cosine", decay_from=1.0), 99, 100) == 1.0
    assert factor(ScheduleConfig("cosine", warmup_steps=200), 99, 100) == 0.5


def test_states_have_names_and_room():
    torch.manual_seed(0)
    model = Toy()
    optimizers = build_optimizers(model, OptimizerConfig(kind="muon"))
    for p in model.parameters():
        if p.requires_grad:
            p.grad = torch.randn_like(p)
    for optimizer in optimizers:
        optimizer.step()
    held = state_tensors(optimizers)
    assert {"odd/step", "odd/exp_avg", "odd/exp_avg_sq", "blocks.0.qkv.weight/momentum"} <= held.keys()
    others = build_optimizers(Toy(), OptimizerConfig(kind="muon"))
    make_room(others, held)
    room = state_tensors(others)
    assert {n: t.shape for n, t in room.items()} == {n: t.shape for n, t in held.items()}
    assert all(not t.any() for t in room.values())
    set_rates(optimizers, 0.5)
    assert [g["lr"] for o in optimizers for g in o.param_groups] == [0.01, 0.0005]
