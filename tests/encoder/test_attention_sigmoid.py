"""Attention by products with a sigmoid against softmax in float64, and against sdpa where it steps aside."""

import pytest
import torch
from tests.encoder.encoder_cases import make, make_pack
from tests.inspect.budget.budget_cases import allocated

from tubelet.encoder import attention_sigmoid, cpu
from tubelet.encoder.attention import Segments, sdpa_into
from tubelet.encoder.attention_sigmoid import sigmoid_into
from tubelet.encoder.config import Rope
from tubelet.encoder.model import Encoder
from tubelet.encoder.options import RunOptions

BF16 = torch.bfloat16
FEWEST = 384
ABLE = attention_sigmoid.able(BF16)
# where a CPU multiplies bfloat16 the product must be there: a fault in `able` is a failure, not a skip
pytestmark = pytest.mark.skipif(not (ABLE or cpu.has_arithmetic(BF16)), reason="this CPU multiplies no bfloat16")
LENGTHS = (FEWEST, 3, FEWEST + 77, 3, 900)


def test_it_is_able_where_bfloat16_is_multiplied() -> None:
    assert ABLE


def qkv(lengths: tuple[int, ...] = LENGTHS, spread: float = 1.0, heads: int = 3, k: int = 64) -> list[torch.Tensor]:
    """spread: of the scores."""
    x = torch.randn(sum(lengths), 3, heads, k, generator=torch.Generator().manual_seed(0))
    x[:, 0] *= spread
    return list(x.to(BF16).unbind(1))


def exact(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The slow twin."""
    out = []
    for a, b, c in zip(*(x.double().transpose(0, 1).split(LENGTHS, dim=1) for x in (q, k, v)), strict=True):
        out.append((a @ b.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) @ c)
    return torch.cat(out, dim=1).transpose(0, 1)


def by(into: object, *given: torch.Tensor, lengths: tuple[int, ...] = LENGTHS) -> torch.Tensor:
    out = torch.full_like(given[0], torch.nan)
    with torch.inference_mode():
        into(out, *given, Segments(lengths), given[0].shape[-1] ** -0.5, *((FEWEST,) if into is sigmoid_into else ()))  # type: ignore[operator]
    return out


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("apart", [False, True])
def test_is_about_as_near_as_sdpa(spread: float, apart: bool) -> None:
    given = qkv(spread=spread)
    q, k, v = given
    want = exact(q, k, v)
    if apart:  # rows of a head together, as the encoder has them
        given = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in given]
    error = {into: float((by(into, *given) - want).norm() / want.norm()) for into in (sdpa_into, sigmoid_into)}
    assert error[sigmoid_into] <= 3.2e-3 and error[sigmoid_into] <= 1.5 * error[sdpa_into], error


def stepped_aside(*given: torch.Tensor) -> bool:
    return torch.equal(by(sigmoid_into, *given), by(sdpa_into, *given))


def test_it_runs_where_it_should_and_short_segments_are_sdpas() -> None:
    given = qkv()
    ours, theirs = by(sigmoid_into, *given), by(sdpa_into, *given)
    for a, b in zip(ours.split(LENGTHS), theirs.split(LENGTHS), strict=True):
        assert torch.equal(a, b) == (len(a) < FEWEST)


def test_scores_too_far_apart_are_sdpas() -> None:
    far = qkv(spread=20.0)
    assert stepped_aside(*far)
    q, k, v = qkv((500,))
    k[:] = k[:1]
    q[:] = -6.0 * k  # every score is as far below c as it can be, 2 x 50
    out = by(sigmoid_into, q, k, v, lengths=(500,))
    assert torch.equal(out, by(sdpa_into, q, k, v, lengths=(500,)))
    assert (out.float() - v.float().mean(0)).abs().max() < 1e-2


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_sick_row_is_what_it_is_by_sdpa_and_stays_in_its_segment(value: float, which: int) -> None:
    given = qkv()
    clean = by(sigmoid_into, *given)
    given[which][FEWEST + 10, 1, 5] = value
    out, theirs = by(sigmoid_into, *given), by(sdpa_into, *given)
    own = slice(FEWEST + 3, 2 * FEWEST + 80)
    assert torch.equal(out[: own.start], clean[: own.start]) and torch.equal(out[own.stop :], clean[own.stop :])
    assert torch.equal(out[own].isfinite(), theirs[own].isfinite())


def test_blocks_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    given = qkv()
    whole = by(sigmoid_into, *given).float()
    monkeypatch.setattr(attention_sigmoid, "BLOCK_ROWS", (7, 50))
    torch.testing.assert_close(by(sigmoid_into, *given).float(), whole, atol=1e-3, rtol=1e-2)


def test_memory_is_a_block_of_probabilities() -> None:
    """Eight heads of 3,000 rows have 144 MB of them."""
    given = qkv((3_000,), heads=8)
    peak = allocated(lambda: by(sigmoid_into, *given, lengths=(3_000,)))
    assert peak < given[0].nbytes + 6_000_000, peak


# ---- in the encoder


def errors(encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, float], bool]:
    """Of bfloat16 rows from float32's by either, and whether the sigmoid ran."""
    p = make_pack(((1, 20, 21), (1, 3, 5), (1, 25, 25)))
    half = Encoder(encoder.config, RunOptions(products="onednn")).eval()
    half.load_state_dict(encoder.state_dict())
    half.to(BF16)
    found: dict[str, float] = {}
    ran: list[bool] = []
    once = attention_sigmoid._one_segment
    monkeypatch.setattr(attention_sigmoid, "_one_segment", lambda *a: ran.append(once(*a)) or ran[-1])
    with torch.no_grad():
        want = encoder(p).x
        for name, fewest in (("sdpa", None), ("sigmoid", FEWEST)):
            monkeypatch.setattr(cpu, "resolve_attention", lambda *a, fewest=fewest: fewest)
            found[name] = float((half(p).x.float() - want).norm() / want.norm())
    return found, bool(ran) and all(ran)


@pytest.mark.parametrize("rope", [None, Rope("rotation")])
@pytest.mark.parametrize("width", [64, 96])
def test_towers_are_as_near_to_float32_as_by_sdpa(
    width: int, rope: Rope | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = make(hidden=2 * width, heads=2, rope=rope).requires_grad_(False)
    found, ran = errors(encoder, monkeypatch)
    assert ran == (width != 96 or rope is not None)  # 96 ** -0.5 is no power of two, and q would be rounded once more
    assert found["sigmoid"] <= 1.15 * found["sdpa"], found
