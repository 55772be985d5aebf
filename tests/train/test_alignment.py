"""The chain from views to a loss, adapted by LoRA: to convergence at small shapes, and at LaViDa's full ones."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

import tubelet
from tubelet.errors import ConfigError, ShapeError
from tubelet.families.siglip import SIGLIP
from tubelet.inspect.metrics.alignment import alignment
from tubelet.language.project.projector import build_projector
from tubelet.language.vlm.lavida import LAVIDA_DEPTH, FrontEnd
from tubelet.packed import Packed
from tubelet.pixels.views_plan import LAVIDA, ViewRule
from tubelet.reading.clip import Clip
from tubelet.reduce.relevance import in_joint_space
from tubelet.reduce.settings import Weights
from tubelet.reduce.shirg import shirg
from tubelet.train.alignment import ALIGNMENT_HOMES, Alignment, AlignmentConfig
from tubelet.train.lora import SEED, Lora, lora_numbers
from tubelet.train.losses import info_nce
from tubelet.train.parts import check_optimizer
from tubelet.train.readout import mean_embeddings
from tubelet.train.thin import thin

SO400M = SIGLIP.variants["siglip_so400m_patch14_384"]
WIDTH, HIDDEN, PAIRS, BUDGET = 48, 32, 8, 20
RULE = ViewRule(56, ((112, 112), (56, 112), (112, 56)), pool="bilinear", join="unpad")
SMALL = Lora(("projector.0", "projector.2"), rank=8, alpha=16, dropout=0.0)
TINY = AlignmentConfig(budget=BUDGET, lora=SMALL)


def front() -> FrontEnd:
    torch.manual_seed(0)
    encoder = tubelet.untrained(replace(SO400M, hidden=HIDDEN, layers=3, heads=2, mlp=48))
    with torch.no_grad():
        for weight in encoder.parameters():
            weight.normal_(0, 0.1)
    projector = build_projector("mlp2x_gelu", HIDDEN, WIDTH)
    return FrontEnd(encoder, projector, RULE, depth=2, newline=torch.zeros(WIDTH))


def pictures(count: int, side: int, seed: int = 0) -> list[Clip]:
    """Coloured noise: each picture has its own colour, and shows another place by place."""
    rng = np.random.default_rng(seed)
    colours = rng.integers(40, 216, (count, 1, 1, 1, 3))
    noise = rng.integers(-40, 40, (count, 1, side, side, 3))
    return [Clip((c + n).astype(np.uint8), (0.0,)) for c, n in zip(colours, noise, strict=True)]


def words(count: int, width: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(3)
    return [torch.randn(4, width, generator=g) for _ in range(count)]


def captions(count: int, width: int, vocabulary: int = 100) -> Tensor:
    """Means of a frozen table's rows, as a language model embeds its captions."""
    g = torch.Generator().manual_seed(4)
    table = torch.randn(vocabulary, width, generator=g)
    ids = torch.randint(vocabulary, (count, 9), generator=g)
    return mean_embeddings(table, ids.tolist())


def train(model: Alignment, steps: int, lr: float = 1e-2) -> list[float]:
    seen = model.look(pictures(PAIRS, 112))
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=lr, weight_decay=0.01)
    losses: list[float] = []
    for step in range(steps):
        made = model(seen, words(PAIRS, HIDDEN), captions(PAIRS, WIDTH), ids=range(PAIRS), seed=0, step=step)
        optimizer.zero_grad()
        made.loss.backward()
        optimizer.step()
        losses.append(made.loss.item())
        if step == 2:  # B is zero at first, so A has a gradient from the second step on
            check_optimizer(model, optimizer, model.parts, ALIGNMENT_HOMES, stepped=True)
    return losses


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, readout="attention", learn_temperature=True),
        replace(TINY, loss="sigmoid"),
        replace(TINY, weights=Weights(text=1.0, variance=0.5), thin=0.25),
    ],
    ids=["info_nce", "attention", "sigmoid", "thinned"],
)
def test_it_converges_at_small_shapes(config: AlignmentConfig):
    model = Alignment(front(), config)
    frozen = {k: v.clone() for k, v in model.state_dict().items() if "lora_" not in k and k.startswith("front.")}
    losses = train(model, 120)
    assert losses[-1] < losses[0] / 20
    if config.loss == "info_nce" and not config.learn_temperature:
        assert losses[0] > 0.8 * math.log(PAIRS)  # it began where chance is
    state = model.state_dict()
    assert all(torch.equal(state[k], v) for k, v in frozen.items())
    model.eval()
    with torch.no_grad():
        made = model(model.look(pictures(PAIRS, 112)), words(PAIRS, HIDDEN), captions(PAIRS, WIDTH))
    assert alignment(made.pictures, captions(PAIRS, WIDTH)).recall_1.value == 1.0


def test_the_loss_is_that_of_its_stages_one_by_one():
    model = Alignment(front(), TINY).eval()
    clips, text, targets = pictures(3, 112), words(3, HIDDEN), captions(3, WIDTH)
    seen = model.look(clips)
    assert seen.rows.lengths == (16,) * 15  # a global view and four tiles of each
    assert not seen.rows.x.requires_grad
    space = in_joint_space(model.front.encoder, seen.scoring)
    kept: Packed = shirg(seen.rows, text, budget=BUDGET, features=space)
    rows = model.front.projector(kept)
    of = [[i for i, item in enumerate(rows.items) if item.picture == n] for n in range(3)]
    means = torch.stack([torch.cat([rows.unpack()[i] for i in own]).mean(0) for own in of])
    made = model(seen, text, targets)
    torch.testing.assert_close(made.pictures, means)
    torch.testing.assert_close(made.loss, info_nce(means, targets, temperature=0.07))
    assert [sum(kept.lengths[i] for i in own) for own in of] == [BUDGET] * 3


def test_rows_are_thinned_by_sample_while_it_trains_and_not_after():
    model = Alignment(front(), replace(TINY, thin=0.5)).train()
    seen, text, targets = model.look(pictures(2, 112)), words(2, HIDDEN), captions(2, WIDTH)
    with torch.no_grad():
        got = model(seen, text, targets, ids=("a", "b"), seed=1, step=2).pictures
        kept = model.kept(seen, text)
        names = ["ab"[item.picture] for item in kept.items]
        few = model.front.projector(thin(kept, names, seed=1, step=2, rate=0.5))
        first = torch.cat([x for x, item in zip(few.unpack(), few.items, strict=True) if item.picture == 0])
        torch.testing.assert_close(got[0], first.mean(0))
        with pytest.raises(ShapeError, match="0 ids for 2"):
            model(seen, text, targets)
        model.eval()
        assert not torch.equal(model(seen, text, targets).pictures, got)


def test_adapters_in_the_tower_learn_through_it():
    lora = Lora(("projector.0", "encoder.layers.0.qkv.q", "encoder.layers.1.qkv.v"), rank=4, dropout=0.0)
    model = Alignment(front(), replace(TINY, lora=lora))
    assert not model.frozen_tower and str(model.lines[0]).startswith("lora: 6 tensors")
    clips, text, targets = pictures(4, 112), words(4, HIDDEN), captions(4, WIDTH)
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        model(model.look(clips), text, targets).loss.backward()
        optimizer.step()
    check_optimizer(model, optimizer, model.parts, ALIGNMENT_HOMES, stepped=True)
    assert all(bool(w.grad.any()) for w in model.parameters() if w.grad is not None)


@pytest.mark.parametrize(
    "wrong", [{"budget": 0}, {"loss": "triplet"}, {"readout": "max"}, {"temperature": 0.0}, {"thin": 1.0}]
)
@pytest.mark.usefixtures("as_in_production")
def test_a_config_that_means_nothing_is_refused(wrong: dict):
    with pytest.raises(ConfigError):
        replace(TINY, **wrong)


@pytest.mark.slow
@pytest.mark.parametrize("layers", [2, SO400M.layers])
def test_two_steps_at_full_shapes(layers: int):
    """3,645 rows of 1,152 channels of each page, 980 of them kept, 4,096 channels after the projector."""
    torch.manual_seed(0)
    encoder = tubelet.untrained(replace(SO400M, layers=layers))
    front = FrontEnd(
        encoder,
        build_projector("mlp2x_gelu", 1152, 4096),
        LAVIDA,
        depth=layers - 1,
        newline=torch.zeros(4096),
    )
    model = Alignment(front, AlignmentConfig())
    [line] = model.lines
    assert (line.tensors, line.parameters) == (4, 860_160) == (4, lora_numbers(model))
    assert model.config.lora == SEED
    assert layers == 2 or front.depth == LAVIDA_DEPTH
    seen = model.look(pictures(2, 768))
    assert tuple(seen.rows.x.shape) == (2 * 3645, 1152)
    text, targets = words(2, 1152), captions(2, 4096)
    assert model.kept(seen, text).x.shape == (2 * 980, 1152)
    optimizer = torch.optim.AdamW([w for w in model.parameters() if w.requires_grad], lr=2e-4, weight_decay=0.01)
    losses: list[float] = []
    for _ in range(2):
        made = model(seen, text, targets)
        optimizer.zero_grad()
        made.loss.backward()
        optimizer.step()
        losses.append(made.loss.item())
    assert losses[-1] < losses[0] and all(map(math.isfinite, losses))
    check_optimizer(model, optimizer, "lora", ALIGNMENT_HOMES, stepped=True)
