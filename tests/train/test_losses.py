"""Losses against twins that loop over tokens and pairs, and against what the papers' formulas give by hand."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tests.train.gloo_ranks import on_ranks
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tubelet.errors import InputError
from tubelet.train.losses import (
    IGNORE,
    LearnedScale,
    draw_noise,
    info_nce,
    masked_diffusion,
    next_token,
    sigmoid,
    targets_in,
)

V, D = 50, 12
LENGTHS, IDS = (6, 1, 9, 4), ("a", "b", 7, "d")
CU = torch.tensor([0, 6, 7, 16, 20], dtype=torch.int32)


def made(seed: int = 0, places: int = 20) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, head, bias, and labels of which some are no target."""
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(places, D, generator=g, requires_grad=True)
    head = torch.randn(V, D, generator=g, requires_grad=True)
    bias = torch.randn(V, generator=g, requires_grad=True)
    labels = torch.randint(V, (places,), generator=g)
    labels[torch.rand(places, generator=g) < 0.4] = IGNORE
    return hidden, head, bias, labels


def next_token_by_hand(logits: Tensor, labels: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """Sample by sample, token by token."""
    terms: list[Tensor] = []
    first = 0
    for length in lengths:
        asked = [i for i in range(first, first + length - 1) if labels[i + 1] != IGNORE]
        terms += [-torch.log_softmax(logits[i].double(), 0)[labels[i + 1]] for i in asked]
        first += length
    return torch.stack(terms).mean()


@pytest.mark.parametrize("chunk", [1, 3, 7, 1000])
def test_next_token_equals_a_loop_over_packed_samples(chunk: int):
    hidden, head, bias, labels = made()
    want = next_token_by_hand(hidden @ head.T + bias, labels, LENGTHS)
    got = next_token(hidden, labels, head=head, bias=bias, cu_seqlens=CU, chunk=chunk)
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6)
    for a, b in zip(
        torch.autograd.grad(got, (hidden, head, bias)), torch.autograd.grad(want, (hidden, head, bias)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    logits = (hidden @ head.T + bias).detach()
    torch.testing.assert_close(next_token(logits, labels, cu_seqlens=CU, chunk=chunk), got.detach())


def test_logits_may_be_bent():
    hidden, head, bias, labels = made()
    want = next_token_by_hand(2 * torch.tanh((hidden @ head.T + bias) / 2), labels, LENGTHS)
    got = next_token(hidden, labels, head=head, bias=bias, cu_seqlens=CU, cap=2.0, chunk=3)
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6)
    for a, b in zip(
        torch.autograd.grad(got, (hidden, head, bias)), torch.autograd.grad(want, (hidden, head, bias)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_a_batch_is_as_many_samples_as_rows_and_equals_transformers():
    from transformers.loss.loss_utils import ForCausalLMLoss

    g = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(3, 8, V, generator=g), torch.randint(V, (3, 8), generator=g)
    labels[:, :3] = IGNORE
    want = ForCausalLMLoss(logits, labels, V)
    torch.testing.assert_close(next_token(logits, labels), want)
    cu = torch.tensor([0, 8, 16, 24])
    torch.testing.assert_close(next_token(logits.flatten(0, 1), labels.flatten(), cu_seqlens=cu), want)
    ends = labels.clone()
    ends[:, 0] = 5  # a first token that the sample before must not be asked for
    assert torch.equal(next_token(logits.flatten(0, 1), ends.flatten(), cu_seqlens=cu), next_token(logits, labels))


def test_parts_of_a_step_sum_to_the_whole_when_they_share_a_count():
    hidden, head, bias, labels = made()
    whole = next_token(hidden, labels, head=head, bias=bias, cu_seqlens=CU)
    count = targets_in(labels, CU)
    parts = [
        next_token(hidden[a:b], labels[a:b], head=head, bias=bias, cu_seqlens=cu, count=count)
        for a, b, cu in ((0, 7, torch.tensor([0, 6, 7])), (7, 20, torch.tensor([0, 9, 13])))
    ]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)


class Largest(TorchDispatchMode):
    """The most numbers that any operation gave at once."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, tuple | list) else (out,):
            if isinstance(one, Tensor):
                self.numbers = max(self.numbers, one.numel())
        return out


def test_logits_of_all_rows_never_stand_at_once():
    places, vocabulary, chunk = 400, 300, 16
    hidden = torch.randn(places, D, requires_grad=True)
    head = torch.randn(vocabulary, D, requires_grad=True)
    labels = torch.randint(vocabulary, (places,))
    for rows, weight in ((hidden, head), (torch.randn(places, vocabulary), None)):
        with Largest() as seen:
            loss = next_token(rows, labels, head=weight, chunk=chunk)
            if weight is not None:
                loss.backward()
        if weight is not None:
            assert chunk * vocabulary <= seen.numbers < places * D * 2
    with Largest() as seen:
        next_token(hidden, labels, head=head, chunk=places).backward()
    assert seen.numbers >= (places - 1) * vocabulary  # the measure sees it where it does happen


@pytest.mark.parametrize("given", ["logits", "hidden"])
def test_no_target_is_a_zero_that_still_has_gradients(given: str):
    hidden, head, bias, _ = made()
    labels = torch.full((20,), IGNORE)
    with torch.no_grad():
        hidden[0] = torch.nan
    loss = next_token(hidden, labels, head=head, bias=bias) if given == "hidden" else next_token(hidden, labels)
    loss.backward()
    assert float(loss.detach()) == 0 and hidden.grad is not None and not hidden.grad.any()
    assert given == "logits" or (head.grad is not None and bias.grad is not None and not head.grad.any())


def test_half_types_are_summed_in_float32():
    hidden, head, _, labels = made()
    got = next_token(hidden.bfloat16(), labels, head=head.bfloat16(), cu_seqlens=CU, chunk=2)
    want = next_token_by_hand((hidden.bfloat16() @ head.bfloat16().T).float(), labels, LENGTHS)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda h, head, y: next_token(h[:-1], y, head=head),
        lambda h, head, y: next_token(h, y, head=head[:, :-1]),
        lambda h, head, y: next_token(h, y, head=head, chunk=0),
        lambda h, head, y: next_token(h, y, head=head, count=0),
        lambda h, head, y: next_token(h.view(2, 10, D), y.view(2, 10), head=head, cu_seqlens=CU),
        lambda h, head, y: draw_noise(y, (3, 4), ("a", "b"), seed=0, step=0),
        lambda h, head, y: draw_noise(y, (20,), ("a",), seed=0, step=0, eps=0.5),
        lambda h, head, y: masked_diffusion(h[None], y, draw_noise(y, (20,), ("a",), seed=0, step=0), head=head),
        lambda h, head, y: info_nce(h, h[:-1]),
        lambda h, head, y: info_nce(h[None], h[None]),  # unpooled rows
        lambda h, head, y: info_nce(h, h, temperature=0.0),
        lambda h, head, y: LearnedScale(200.0),
    ],
)
@pytest.mark.usefixtures("as_in_production")
def test_what_does_not_fit_is_refused(wrong: Any):
    hidden, head, _, labels = made()
    with pytest.raises(InputError):
        wrong(hidden, head, labels)


# ---- masked diffusion


def diffusion_by_hand(logits: Tensor, labels: Tensor, noise: Any) -> Tensor:
    """LLaDA's guidelines, sample by sample: sum over hidden tokens of nll / p / answer length, mean over samples."""
    total, samples, first = torch.zeros((), dtype=torch.float64), 0, 0
    for length in LENGTHS:
        span = slice(first, first + length)
        answer = int((labels[span] != IGNORE).sum())
        first += length
        if not answer:
            continue
        samples += 1
        for copy in range(len(logits)):
            for i in range(span.start, span.stop):
                if noise.masked[copy, i]:
                    nll = -torch.log_softmax(logits[copy, i].double(), 0)[labels[i]]
                    total = total + nll / float(noise.rate[copy, i]) / answer / len(logits)
    return total / samples


@pytest.mark.parametrize("complementary", [True, False])
def test_masked_diffusion_equals_a_loop(complementary: bool):
    _, head, bias, labels = made(3)
    noise = draw_noise(labels, LENGTHS, IDS, seed=4, step=2, complementary=complementary)
    copies = 2 if complementary else 1
    hidden = torch.randn(copies, 20, D, generator=torch.Generator().manual_seed(9), requires_grad=True)
    got = masked_diffusion(hidden, labels, noise, head=head, bias=bias, chunk=3)
    want = diffusion_by_hand(hidden @ head.T + bias, labels, noise)
    torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-6)
    a, b = (torch.autograd.grad(loss, hidden)[0] for loss in (got, want))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    told = masked_diffusion(hidden, labels, noise, head=head, bias=bias, weighting="lavida_code")
    each = torch.log_softmax((hidden @ head.T + bias).double(), -1)
    picked = [-each[c, i, labels[i]] for c, i in noise.masked.nonzero().tolist()]
    torch.testing.assert_close(told.double(), torch.stack(picked).mean(), rtol=1e-6, atol=1e-6)


def test_each_answer_token_is_hidden_in_one_copy_and_no_other_token_in_any():
    _, _, _, labels = made(5)
    for step in range(50):
        noise = draw_noise(labels, LENGTHS, IDS, seed=0, step=step)
        assert torch.equal(noise.masked.sum(0), (labels != IGNORE).long())
        torch.testing.assert_close(noise.rate.sum(0), torch.ones(20))
        assert bool((noise.rate > 0).all())


def test_with_a_model_that_ignores_the_masks_the_mean_over_steps_is_the_plain_loss():
    """1 / p makes the sum unbiased: the expected loss is the mean nll of each sample's answer, mean over samples."""
    torch.manual_seed(0)
    labels = torch.randint(V, (40,))
    logits = torch.randn(40, V)
    nll = F.cross_entropy(logits, labels, reduction="none")
    want = (nll[:30].mean() + nll[30:].mean()) / 2
    both = logits.expand(2, -1, -1)
    losses = [
        masked_diffusion(both, labels, draw_noise(labels, (30, 10), ("x", "y"), seed=1, step=step, eps=0.05))
        for step in range(1000)
    ]
    mean, spread = torch.stack(losses).mean(), torch.stack(losses).std() / math.sqrt(len(losses))
    assert abs(mean - want) < 4 * spread and spread < 0.05 * want


def test_noise_depends_on_seed_step_and_sample_alone():
    labels = torch.arange(20)
    whole = draw_noise(labels, LENGTHS, IDS, seed=0, step=3)
    other = draw_noise(labels[6:16], (9, 1), (7, "b"), seed=0, step=3)
    assert torch.equal(whole.masked[:, 7:16], other.masked[:, :9])
    assert torch.equal(whole.masked[:, 6:7], other.masked[:, 9:])
    assert not torch.equal(draw_noise(labels, LENGTHS, IDS, seed=0, step=4).masked, whole.masked)
    assert not torch.equal(draw_noise(labels, LENGTHS, IDS, seed=1, step=3).masked, whole.masked)


def test_samples_without_an_answer_do_not_count_and_none_at_all_is_zero():
    _, head, _, labels = made(3)
    labels[:7] = IGNORE
    hidden = torch.randn(2, 20, D)
    all_of_them = masked_diffusion(hidden, labels, draw_noise(labels, LENGTHS, IDS, seed=0, step=0), head=head)
    rest = draw_noise(labels[7:], LENGTHS[2:], IDS[2:], seed=0, step=0)
    torch.testing.assert_close(all_of_them, masked_diffusion(hidden[:, 7:], labels[7:], rest, head=head))
    empty = torch.full((20,), IGNORE)
    assert not masked_diffusion(hidden, empty, draw_noise(empty, LENGTHS, IDS, seed=0, step=0), head=head)
    nothing = draw_noise(labels[:0], (), (), seed=0, step=0)
    assert nothing.masked.shape == (2, 0)


# ---- pairs


def info_nce_by_hand(a: Tensor, b: Tensor, temperature: float | Tensor) -> Tensor:
    n = len(a)
    cosine = torch.stack([torch.stack([F.cosine_similarity(x, y, dim=0) for y in b]) for x in a]) / temperature
    rows = [cosine[i].logsumexp(0) - cosine[i, i] for i in range(n)]
    columns = [cosine[:, i].logsumexp(0) - cosine[i, i] for i in range(n)]
    return (torch.stack(rows).mean() + torch.stack(columns).mean()) / 2


def ranking_loss(queries: Tensor, documents: Tensor, scale: float) -> Tensor:
    """Source: huggingface/sentence-transformers:sentence_transformers/sentence_transformer/losses/
    multiple_negatives_ranking.py@v6.2.0, directions query_to_doc and doc_to_query, partition_mode per_direction."""
    a, b = (F.normalize(x, dim=1) for x in (queries, documents))
    forth, back = (a @ b.T) * scale, (a @ b.T).T * scale
    log_z = (torch.logsumexp(forth, dim=1) + torch.logsumexp(back, dim=1)) / 2
    return -(forth.diagonal() - log_z).mean()


def sigmoid_by_hand(a: Tensor, b: Tensor, scale: float | Tensor, bias: float | Tensor) -> Tensor:
    total = torch.zeros((), dtype=a.dtype)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            z = 1.0 if i == j else -1.0
            total = total + torch.log1p(torch.exp(-z * (scale * F.cosine_similarity(x, y, dim=0) + bias)))
    return total / len(a)


def pairs(n: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(n, D, generator=g)
    return a.requires_grad_(), (a.detach() + torch.randn(n, D, generator=g)).requires_grad_()


@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_info_nce_equals_a_loop_and_the_symmetric_ranking_loss(temperature: float):
    a, b = pairs()
    got = info_nce(a, b, temperature=temperature)
    for want in (info_nce_by_hand(a.double(), b.double(), temperature), ranking_loss(a, b, 1 / temperature)):
        torch.testing.assert_close(got.double(), want.double(), rtol=1e-6, atol=1e-6)
        for x, y in zip(
            torch.autograd.grad(got, (a, b), retain_graph=True), torch.autograd.grad(want, (a, b)), strict=True
        ):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)
    assert torch.equal(info_nce(b, a, temperature=temperature).detach(), got.detach())


def test_chance_is_the_logarithm_of_the_pairs():
    same = torch.ones(32, 4)
    assert info_nce(same, same).item() == pytest.approx(math.log(32), abs=1e-5)


def test_sigmoid_equals_a_loop():
    a, b = pairs()
    scale, bias = torch.tensor(8.0, requires_grad=True), torch.tensor(-5.0, requires_grad=True)
    got = sigmoid(a, b, scale=scale, bias=bias)
    want = sigmoid_by_hand(a.double(), b.double(), scale, bias)
    torch.testing.assert_close(got.double(), want, rtol=1e-6, atol=1e-6)
    leaves = (a, b, scale, bias)
    for x, y in zip(torch.autograd.grad(got, leaves), torch.autograd.grad(want, leaves), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)


def test_a_learned_scale_comes_back_from_its_ceiling():
    scale = LearnedScale(100.0)
    with torch.no_grad():
        scale.log_scale += 3
    value = scale()
    assert value.item() == pytest.approx(100, rel=1e-5)
    value.backward()
    assert scale.log_scale.grad is not None and scale.log_scale.grad > 0


SIZES = (5, 2)


def shared(rank: int, world: int) -> dict[str, Tensor]:
    """Both losses over unequal shares of seven pairs, and over one rank with none, as DDP would average them."""
    out: dict[str, Tensor] = {}
    for name, sizes in (("unequal", SIZES), ("none", (7, 0))):
        first = sum(sizes[:rank])
        for kind in ("info_nce", "sigmoid"):
            a, b = (x.detach()[first : first + sizes[rank]].requires_grad_() for x in pairs())
            scale, bias = torch.tensor(9.0, requires_grad=True), torch.tensor(-4.0, requires_grad=True)
            group = dist.group.WORLD
            if kind == "info_nce":
                loss = info_nce(a, b, temperature=1 / scale, group=group) + 0 * bias
            else:
                loss = sigmoid(a, b, scale=scale, bias=bias, group=group)
            loss.backward()
            found = {"loss": loss.detach(), "a": a.grad, "b": b.grad, "scale": scale.grad, "bias": bias.grad}
            out |= {f"{name} {kind} {key}": t for key, t in found.items() if t is not None}
    return out


def test_two_ranks_make_the_loss_and_the_gradients_of_one(tmp_path: Path):
    ranks = on_ranks(shared, tmp_path)
    for kind in ("info_nce", "sigmoid"):
        a, b = pairs()
        scale, bias = torch.tensor(9.0, requires_grad=True), torch.tensor(-4.0, requires_grad=True)
        loss = info_nce(a, b, temperature=1 / scale) if kind == "info_nce" else sigmoid(a, b, scale=scale, bias=bias)
        loss.backward()
        for name in ("unequal", "none"):
            mean = {
                k: (ranks[0][f"{name} {kind} {k}"] + ranks[1][f"{name} {kind} {k}"]) / 2
                for k in ("loss", "scale", "bias")
            }
            torch.testing.assert_close(mean["loss"], loss.detach(), rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(mean["scale"], scale.grad, rtol=1e-5, atol=1e-6)
            if kind == "sigmoid":
                torch.testing.assert_close(mean["bias"], bias.grad, rtol=1e-5, atol=1e-6)
            for side, whole in (("a", a.grad), ("b", b.grad)):
                both = torch.cat([r[f"{name} {kind} {side}"] for r in ranks]) / 2  # what DDP's mean makes of them
                torch.testing.assert_close(both, whole, rtol=1e-5, atol=1e-6)
