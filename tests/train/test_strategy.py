"""The strategy that runs is the one asked for, or an error."""

from pathlib import Path

import pytest
import torch
from tests.train.train_toy import Toy, digest, run, tensors, toy_config
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from tubelet.errors import RunError
from tubelet.train.config import SaveConfig
from tubelet.train.strategy import check_wrapped, joined, unwrapped, wrapped


def test_one_process_is_one(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="asked for one process, got 2"), joined("one", device="cpu"):
        pass
    with pytest.raises(RunError, match="start them with torchrun"), joined("ddp", device="cpu"):
        pass


def test_what_was_got_is_checked():
    with joined("fsdp2", device="cpu") as group:
        with pytest.raises(RunError, match="asked for fsdp2, got Toy with plain parameters"):
            check_wrapped(Toy(), group)
        model = wrapped(Toy(), group)
        assert all(isinstance(p, DTensor) for p in model.parameters() if p.requires_grad)
        assert unwrapped(model) is model
    with joined("ddp", device="cpu") as group:
        with pytest.raises(RunError, match="asked for ddp, got Toy"):
            check_wrapped(Toy(), group)
        toy = Toy()
        assert unwrapped(wrapped(toy, group)) is toy
    with joined("fsdp2", device="cpu"):
        sharded = fully_shard(Toy())
    with joined("one", device="cpu") as group, pytest.raises(RunError, match="asked for one"):
        check_wrapped(sharded, group)


def test_a_model_that_trains_nothing():
    with joined("one", device="cpu") as group, pytest.raises(RunError, match="no parameter"):
        wrapped(nn.Linear(2, 2).requires_grad_(False), group)


def test_a_frozen_tower_lies_in_the_root():
    """Blocks that train something are groups of their own, frozen ones are not."""
    model = Toy()
    model.tower = nn.ModuleList([nn.Linear(8, 16)]).requires_grad_(False)
    with joined("fsdp2", device="cpu") as group:
        wrapped(model, group)
    assert isinstance(model.blocks[0], FSDPModule) and not isinstance(model.tower[0], FSDPModule)
    assert isinstance(model.tower[0].weight, DTensor)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_one_process_under_any_strategy_is_the_same(tmp_path: Path, strategy: str):
    config = toy_config(tmp_path / "one", steps=3, save=SaveConfig())
    run(config)
    other = toy_config(tmp_path / strategy, steps=3, save=SaveConfig(), strategy=strategy)
    run(other)
    one, two = tensors(config.folder), tensors(other.folder)
    assert all(torch.equal(one[n], two[n]) for n in one)
    if strategy == "ddp":
        assert digest(config.folder) == digest(other.folder)
