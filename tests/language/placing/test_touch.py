"""Two processes, one with pixels and one without: all take part, and gradients are those of the pixels alone."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests.train.gloo_ranks import on_ranks
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import tubelet
from tubelet.language.placing.place import place
from tubelet.language.placing.rules import TokenIds
from tubelet.language.placing.touch import blank, touch

IDS = TokenIds(image=9)
RECIPE = tubelet.PixelRecipe(patch=2, merge=1)
PICTURE = tubelet.pack([torch.arange(24, dtype=torch.uint8).reshape(2, 12)], [tubelet.Item.of(1, 1, 2)])
PROMPTS = {True: torch.tensor([1, 9, 9, 2]), False: torch.tensor([1, 2, 3, 4])}


class Small(nn.Module):
    """A vision path of one layer, text embeddings and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vision, self.text, self.head = nn.Linear(12, 4), nn.Embedding(10, 4), nn.Linear(4, 1)

    def forward(self, pixels: bool) -> Tensor:
        p = PICTURE if pixels else blank(RECIPE)
        rows = p.with_x(self.vision(p.x.float() / 255))
        placed = rows if pixels else tubelet.pack([], [])
        x = place(placed, PROMPTS[pixels], IDS, embed=self.text).inputs_embeds
        return self.head(x if pixels else touch(x, rows)).square().sum()


def gradients(model: nn.Module) -> dict[str, Tensor]:
    found = {n.removeprefix("module."): p.grad for n, p in model.named_parameters()}
    return {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in found.items() if g is not None}


def one_rank(rank: int, world: int) -> dict[str, Tensor]:
    sharded: Any = Small()
    fully_shard(sharded.vision, mesh=dist.init_device_mesh("cpu", (world,)))
    fully_shard(sharded, mesh=dist.init_device_mesh("cpu", (world,)))
    out: dict[str, Tensor] = {}
    for name, model in (("ddp", DistributedDataParallel(Small())), ("fsdp", sharded)):
        model(rank == 0).backward()
        out |= {f"{name} {key}": gradient for key, gradient in gradients(model).items()}
    return out


def test_a_rank_without_pixels_takes_part_and_adds_nothing(tmp_path: Path):
    found = on_ranks(one_rank, tmp_path)[0]
    model = Small()
    ((model(True) + model(False)) / 2).backward()
    want = gradients(model)
    assert set(want) == {n for n, _ in model.named_parameters()}
    for name in ("ddp", "fsdp"):
        for key, gradient in want.items():
            torch.testing.assert_close(found[f"{name} {key}"], gradient)
    alone = Small()
    (alone(True) / 2).backward()
    assert torch.equal(gradients(alone)["vision.weight"], want["vision.weight"])
