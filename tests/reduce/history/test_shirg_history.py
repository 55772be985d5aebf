"""The historical versions on packs, their faults where a user would meet them, and what they trained with."""

import math
from typing import Any

import pytest
import torch
from tests.golden.upstream.shirg_training import (
    coordinate_embedding,
    dropout_keeps,
    info_nce,
    structured_keeps,
    token_dropout,
)
from tests.reduce.merge_cases import shuffled, values
from torch import Tensor

from tubelet.errors import InputError, ShapeError
from tubelet.packed import Item, Packed, pack
from tubelet.reduce.history.fovea import Method, Pooling, fovea2, global_view
from tubelet.reduce.history.parts import best_of_regions, cosmax, laplacian, sobel
from tubelet.reduce.history.versions import VERSIONS, historical

FIVE_VIEWS = "shirg-v2-views"
CHANGED = {"shirg-modular-9ab210f", "shirg-modular-3c07ec2", "shirg-modular-bd9a45f"}  # all tokens are smoothed
SQUARE = [name for name in VERSIONS if name != FIVE_VIEWS]


def squares() -> Packed:
    return pack([values(256, 64), values(64, 64, seed=1)], [Item.of(1, 16, 16), Item.of(1, 8, 8, picture=1)])


@pytest.mark.parametrize("name", SQUARE)
def test_a_version_on_a_pack_is_the_version_on_each_image(name: str):
    p, text, budget = squares(), values(4, 64, seed=2), 40
    kept = historical(shuffled(p, 3), name, text, budget=budget).check()
    for rows, x in zip(kept.unpack(), p.unpack(), strict=True):
        found = VERSIONS[name].run(x[None], text[None], budget=budget)
        index = found.index[0] if name not in CHANGED else found.place[0]  # pyright: ignore[reportOptionalSubscript]
        assert torch.equal(rows, x[index[index >= 0].unique()])
        assert name not in CHANGED or bool((found.index == -1).all())
    if name not in ("shirg-v1", "shirg-dual", "shirg-x-merge"):
        assert kept.lengths == (40, 40)


@pytest.mark.parametrize("name", SQUARE)
def test_versions_run_without_text(name: str):
    found = VERSIONS[name].run(values(256, 64)[None], None, budget=40)
    assert found.tokens.shape[1] == len(found.index[0])
    assert bool(found.tokens.isfinite().all())


def test_five_views_need_their_count():
    x = values(4608, 4)
    found = VERSIONS[FIVE_VIEWS].run(x[None], None, budget=64)
    assert found.tokens.shape == (1, 65, 4)
    with pytest.raises(ShapeError, match="4608"):
        VERSIONS[FIVE_VIEWS].run(x[None, :4000], None, budget=64)


def test_every_version_says_what_is_wrong_with_it():
    for name, version in VERSIONS.items():
        assert name.startswith("shirg-")
        assert version.faults and all(version.faults)
        assert all(len(commit) == 7 for commit in version.commits)
        assert version.budget > 0


def test_wrong_input_names_the_item():
    p = pack([values(64, 8), values(60, 8, seed=1)], [Item.of(1, 8, 8), Item.of(1, 6, 10)])
    with pytest.raises(ShapeError, match="square grid, 60 tokens") as caught:
        historical(p, "shirg-fixed", budget=20)
    assert caught.value.item == 1
    assert historical(p, "shirg-v1b", budget=20).lengths == (20, 20)
    with pytest.raises(InputError, match="16 regions do not fit a budget of 9") as caught:
        historical(pack([values(256, 8)], [Item.of(1, 16, 16)]), "shirg-fixed", budget=9)
    assert caught.value.item == 0
    with pytest.raises(ShapeError, match="64 channels"):
        historical(p.reorder([0]), "shirg-v2", budget=20)
    with pytest.raises(InputError, match="no version"):
        historical(p, "shirg-v9")
    with pytest.raises(InputError, match="one summary"):
        historical(p, "shirg-v1", budget=0)


@pytest.mark.usefixtures("as_in_production")
def test_an_unknown_method_is_refused():
    wrong: Any = "best"
    with pytest.raises(InputError, match="one of base"):
        fovea2(values(64, 8)[None], None, budget=20, method=wrong)


# ---- faults that a user should know


def test_what_is_chosen_of_an_image_depends_on_others_in_the_batch():
    x = values(3 * 256, 64).view(3, 256, 64)
    alone = VERSIONS["shirg-v2"].run(x[1:2], None, budget=40).index[0]
    second = VERSIONS["shirg-v2"].run(x[:2], None, budget=40).index[1]
    assert set(alone.tolist()) != set(second.tolist())  # coverage comes from the first image
    two = VERSIONS["shirg-v3"].run(x[:2], None, budget=40).tokens[0]
    three = VERSIONS["shirg-v3"].run(x, None, budget=40).tokens[0]
    assert not torch.equal(two, three)


def test_the_count_of_the_dual_scale_is_not_fixed():
    unit = torch.nn.functional.normalize(values(2304, 64), dim=1)[None]
    assert VERSIONS["shirg-dual"].run(unit, None, budget=1152).tokens.shape[1] < 1152


def test_fovea_follows_the_upper_left_patch():
    x = values(256, 64)
    x[100:140] = x[0]
    kept = historical(pack([x], [Item.of(1, 16, 16)]), "shirg-fovea2-base", budget=41)
    likeness = torch.cosine_similarity(kept.x, x[:1])
    assert int((likeness > 0.999).sum()) >= 38


# ---- parts, written out


def test_laplacian_and_sobel_are_sums_over_the_window():
    x = values(30 * 1, 3)[:25][None]
    grid = x[0].view(5, 5, 3)
    padded = torch.nn.functional.pad(grid.permute(2, 0, 1), (1, 1, 1, 1)).permute(1, 2, 0)
    for h in range(5):
        for w in range(5):
            window = padded[h : h + 3, w : w + 3]
            cross = 4 * window[1, 1] - window[0, 1] - window[2, 1] - window[1, 0] - window[1, 2]
            assert float(laplacian(x, 5)[0, h * 5 + w]) == pytest.approx(float(cross.abs().mean()), abs=1e-5)
    image = grid.mean(dim=2)
    for replicate in (False, True):
        mode = "replicate" if replicate else "constant"
        wide = torch.nn.functional.pad(image[None, None], (1, 1, 1, 1), mode=mode)[0, 0]
        got = sobel(image[None], replicate=replicate)[0]
        for h in range(5):
            for w in range(5):
                a = wide[h : h + 3, w : w + 3]
                gx = a[0, 2] + 2 * a[1, 2] + a[2, 2] - a[0, 0] - 2 * a[1, 0] - a[2, 0]
                gy = a[2, 0] + 2 * a[2, 1] + a[2, 2] - a[0, 0] - 2 * a[0, 1] - a[0, 2]
                assert float(got[h * 5 + w]) == pytest.approx(math.hypot(float(gx), float(gy)), abs=1e-5)


def test_best_of_regions_leaves_what_fills_no_block():
    scores = torch.zeros(1, 49)
    scores[0, [3 * 7 + 2, 6 * 7 + 6]] = 1.0
    found = best_of_regions(scores, 7, 3)[0].tolist()
    assert found == [0, 3, 3 * 7 + 2, 3 * 7 + 3]  # row and column 6 are in no block


def test_cosmax_is_the_largest_cosine():
    x, text = values(6, 4)[None], values(3, 4, seed=1)[None]
    for row, got in zip(x[0], cosmax(x, text)[0], strict=True):
        expected = max(float(torch.cosine_similarity(row, word, dim=0)) for word in text[0])
        assert float(got) == pytest.approx(expected, abs=1e-6)


# ---- training


def test_coordinate_embedding_is_its_formula():
    coords, weight, bias = torch.rand(1, 3, 4), values(16, 4), values(16, 1).flatten()
    got = coordinate_embedding(coords, weight, bias)
    for k, (x, y, _, _) in enumerate(coords[0].tolist()):
        f = [10000 ** (-2 * i / 8) for i in range(4)]
        waves = [math.sin(x * v) for v in f] + [math.cos(x * v) for v in f]
        waves += [math.sin(y * v) for v in f] + [math.cos(y * v) for v in f]
        expected = weight @ coords[0, k] + bias + 0.1 * torch.tensor(waves)
        torch.testing.assert_close(got[0, k], expected)
    with pytest.raises(ShapeError):
        coordinate_embedding(coords, values(10, 4), values(10, 1).flatten())


def test_token_dropout_scales_by_the_rate():
    x, keep = values(8, 3)[None], torch.tensor([[True, False] * 4])
    got = token_dropout(x, keep, rate=0.25)
    torch.testing.assert_close(got[0, ::2], x[0, ::2] / 0.75)
    assert not bool(got[0, 1::2].any())
    assert [dropout_keeps(n, least=16) for n in (10, 17, 100)] == [10, 16, 90]
    assert structured_keeps(torch.tensor([True] * 40 + [False] * 60), least=16) == (38, 52)
    assert structured_keeps(torch.tensor([True] * 100), least=16) == (95, 0)
    with pytest.raises(InputError):
        dropout_keeps(10, rate=1.0)


def test_info_nce_is_symmetric_and_chance_is_the_logarithm_of_the_batch():
    a, b = values(40, 8).view(4, 10, 8), values(20, 8, seed=1).view(4, 5, 8)
    assert float(info_nce(a, b)) == pytest.approx(float(info_nce(b, a)), abs=1e-5)
    assert float(info_nce(a, b[:1].expand(4, -1, -1))) > math.log(4) - 1
    same = values(1, 8).expand(4, 3, 8)
    assert float(info_nce(same, same)) == pytest.approx(math.log(4), abs=1e-5)
    unit = [torch.nn.functional.normalize(v.mean(dim=1), dim=1) for v in (a, b)]
    logits = (unit[0] @ unit[1].T / 0.07).double().exp()
    rows, columns = logits.diagonal() / logits.sum(dim=1), logits.diagonal() / logits.sum(dim=0)
    expected = -(rows.log().mean() + columns.log().mean()) / 2
    assert float(info_nce(a, b)) == pytest.approx(float(expected), abs=1e-4)


# ---- scores written out, for what a plain clone has no golden case of


def in_range(s: Tensor) -> Tensor:
    return (s - s.min()) / (s.max() - s.min() + 1e-8)


def ranked(scores: Tensor, k: int) -> set[int]:
    return set(sorted(range(len(scores)), key=lambda r: -float(scores[r]))[:k])


@pytest.mark.parametrize("with_text", [False, True])
def test_the_methods_of_fovea(with_text: bool):
    x, text = values(144, 64, seed=3), values(5, 64, seed=4) if with_text else None
    near = in_range(torch.tensor([float(torch.cosine_similarity(row, x[0], dim=0)) for row in x]))
    words = torch.stack([row.norm() for row in x])
    if text is not None:
        mean = torch.stack([word / word.norm() for word in text]).mean(dim=0)
        words = torch.stack([row @ mean / row.norm() for row in x])
    words = in_range(words)
    edge = in_range(sobel(x.mean(dim=1).view(1, 12, 12), replicate=True)[0])
    cosine = torch.stack([torch.cosine_similarity(x, row[None]) for row in x])
    others = in_range((cosine.sum(dim=1) - 1) / 143)
    radius = torch.tensor([math.hypot(r - 5.5, c - 5.5) / math.hypot(6, 6) for r in range(12) for c in range(12)])
    radial = 1 - torch.exp(-((radius / 0.65) ** 2))
    expected: dict[Method, Tensor] = {
        "base": 0.7 * near + 0.3 * words,
        "entropy": 0.7 * near + 0.3 * words,
        "edge": 0.4 * near + 0.10 * words + 0.25 * edge,
        "edge_only": 0.2 * words + 0.8 * edge,
        "custom": (0.3 * near + 0.5 * words + 0.4 * edge) / 1.2,
        "full": (0.4 * near + 0.25 * words - 0.1 * others + 0.25 * edge) * radial / radial.mean(),
    }
    assert float(near.std()) <= 0.2
    for method, scores in expected.items():
        options: Any = {"threshold": 0.2}  # above what this image has, so nothing is masked
        if method == "custom":
            options |= {"attention_weight": 0.3, "similarity_weight": 0.5, "edge_weight": 0.4}
        found = fovea2(x[None], None if text is None else text[None], budget=48, method=method, **options)
        assert set(found.index[0].tolist()) == ranked(scores, 48), method
        assert torch.equal(found.tokens[0], x[found.index[0]])


def test_a_masked_image_is_chosen_by_ties_alone():
    x = values(144, 64, seed=3)[None]
    for method in ("entropy", "full"):
        found = fovea2(x, None, budget=48, method=method, threshold=0.0)
        other = fovea2(x.flip(1), None, budget=48, method=method, threshold=0.0)
        assert torch.equal(found.index, other.index)  # the content has no say


def test_the_weighted_summary_of_version_2():
    x = values(64, 64, seed=5)
    found = VERSIONS["shirg-v2-summary"].run(x[None], None, budget=20)
    kept = found.index[0, :20].tolist()
    assert found.index[0, 20] == -1
    gone = [r for r in range(64) if r not in kept]
    edge = in_range(laplacian(x[None], 8)[0])
    scores = 0.25 * in_range(x.var(dim=1)) + 0.15 * edge
    by_score = (scores[gone] * 5).softmax(dim=0) @ x[gone]
    around = []
    for r in gone:
        near = [(r // 8 + a, r % 8 + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
        around.append(sum(0 <= a < 8 and 0 <= b < 8 and a * 8 + b in gone for a, b in near))
    weights = torch.tensor(around, dtype=torch.float32)
    context = x[gone].mean(dim=0) - x[kept].mean(dim=0)
    expected = 0.6 * by_score + 0.25 * (weights / weights.sum()) @ x[gone] + 0.15 * context
    torch.testing.assert_close(found.tokens[0, 20], expected)
    assert [kept[0], kept[1]] == sorted(range(64), key=lambda r: -float(scores[r]))[::12][:2]
    rest = sorted((r for r in range(64) if r not in kept[:5]), key=lambda r: -float(scores[r]))
    assert kept[5:] == rest[:15]


def test_five_views_have_edges_of_their_own():
    x = values(4608, 6, seed=6)[None]
    parts = [*x[:, :2304].split(576, dim=1), x[:, 2304:]]
    whole = torch.cat([laplacian(part, side)[0] for part, side in zip(parts, (24, 24, 24, 24, 48), strict=True)])
    scores = 0.25 * in_range(x[0].var(dim=1)) + 0.15 * in_range(whole)
    found = VERSIONS[FIVE_VIEWS].run(x, None, budget=40)
    order = sorted(range(4608), key=lambda r: -float(scores[r]))
    first = order[:: 4608 // 10][:10]
    assert found.index[0, :10].tolist() == first
    assert found.index[0, 10:40].tolist() == [r for r in order if r not in first][:30]
    rest = torch.ones(4608, dtype=torch.bool).index_fill(0, found.index[0, :40], False)
    torch.testing.assert_close(found.tokens[0, 40], x[0, rest].mean(dim=0))


def test_regions_of_eight_come_first():
    x = values(256, 8, seed=7)
    scores = 0.7 * x.norm(dim=1) + 0.3 * x.var(dim=1)
    found = VERSIONS["shirg-fixed-1152"].run(x[None], None, budget=12).index[0].tolist()
    corners = [(h, w) for h in (0, 8) for w in (0, 8)]
    cells = [[(h + a) * 16 + w + b for a in range(8) for b in range(8)] for h, w in corners]
    first = [max(block, key=lambda r: float(scores[r])) for block in cells]
    assert found[:4] == first
    assert found[4:] == [r for r in sorted(range(256), key=lambda r: -float(scores[r])) if r not in first][:8]


@pytest.mark.parametrize(
    ("how", "side", "out"), [("cropped", 27, 14), ("padded", 27, 14), ("halved", 32, 16), ("quartered", 32, 8)]
)
def test_pooled_global_views(how: Pooling, side: int, out: int):
    x = values(side * side, 2, seed=8)
    grid, step = x.view(side, side, 2), 4 if how == "quartered" else 2
    got = global_view(x[None], how)[0].view(out, out, 2)
    shift = 1 if how == "padded" else 0
    for r in range(out):
        for c in range(out):
            cells = [(r * step + a - shift, c * step + b - shift) for a in range(step) for b in range(step)]
            real = [grid[a, b] for a, b in cells if 0 <= a < side and 0 <= b < side]
            expected = torch.stack(real).sum(dim=0) / step**2 if real else torch.zeros(2)
            if how == "cropped" and (r == out - 1 or c == out - 1):
                expected = torch.zeros(2)
            torch.testing.assert_close(got[r, c], expected)
