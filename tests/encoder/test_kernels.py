"""What multiplies matrices on a CPU: either gives the twin's rows; the choice is measured once, kept, never needed."""

import itertools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tests.encoder.encoder_cases import make, make_pack
from tests.encoder.test_options import OPTIONS, build, pack_for
from tests.inspect.budget.budget_cases import allocated

from tubelet.encoder import attention_sigmoid, cpu, kernels
from tubelet.encoder.layers import activate
from tubelet.encoder.options import RunOptions
from tubelet.errors import ConfigError

ONEDNN = pytest.mark.skipif(not kernels.able(torch.float32), reason="this torch has no oneDNN product")
SLOW, FAST = {"blas": 2.0, "onednn": 1.0}, {"blas": 1.0, "onednn": 0.98}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A cache folder of its own, and nothing remembered in this process before or after."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    kernels.chosen.cache_clear()
    yield tmp_path / "tubelet"
    kernels.chosen.cache_clear()


def says(monkeypatch: pytest.MonkeyPatch, seconds: dict[str, float], *, quiet: bool = True) -> list[torch.dtype]:
    """The trial gives these; the list grows with each."""
    asked: list[torch.dtype] = []

    def trial(dtype: torch.dtype) -> tuple[dict[str, float], bool]:
        asked.append(dtype)
        return seconds, quiet

    monkeypatch.setattr(kernels, "trial", trial)
    return asked


@ONEDNN
@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("block", [1024, 7])
def test_either_gives_the_rows_of_the_plain_modules(name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "FUSED", block)
    encoder = build(name).requires_grad_(False)
    p = pack_for(encoder)
    plain = encoder(p).x
    for products in ("blas", "onednn"):
        encoder.set_run_options(RunOptions(products=products))  # type: ignore[arg-type]
        with torch.no_grad():
            torch.testing.assert_close(encoder(p).x, plain, atol=2e-5, rtol=1e-5)


@ONEDNN
@pytest.mark.parametrize("act", ["gelu", "gelu_tanh", "quick_gelu", "silu"])
@pytest.mark.parametrize("gated", [False, True])
def test_every_activation_behind_either(act: str, gated: bool) -> None:
    encoder = make(act=act, gated=gated, mlp_bias=not gated).requires_grad_(False)
    plain = encoder(pack_for(encoder)).x
    encoder.set_run_options(RunOptions(products="onednn"))
    with torch.no_grad():
        torch.testing.assert_close(encoder(pack_for(encoder)).x, plain, atol=2e-5, rtol=1e-5)


@ONEDNN
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_are_as_near_to_float32_by_either(dtype: torch.dtype) -> None:
    exact, half = build("clip"), build("clip").to(dtype)
    p = make_pack(((1, 20, 20), (1, 9, 30)))
    apart = {}
    with torch.no_grad():
        want = exact(p).x
        for products in ("blas", "auto" if cpu.work_dtype(dtype) == torch.float16 else "onednn"):
            half.set_run_options(RunOptions(products=products))  # type: ignore[arg-type]
            got = half(p).x.float()
            apart[products] = float((got - want).norm() / want.norm())
            assert F.cosine_similarity(got.flatten(), want.flatten(), dim=0) >= 0.9995
    assert max(apart.values()) <= 1.1 * apart["blas"], apart


@ONEDNN
@pytest.mark.parametrize("act", [None, "gelu", "gelu_tanh", "silu"])
def test_a_product_is_its_formula_and_rows_do_not_know_of_each_other(act: str | None) -> None:
    x, weight, bias = (
        torch.randn(s, generator=torch.Generator().manual_seed(i)) for i, s in enumerate(((300, 96), (64, 96), (64,)))
    )
    want = F.linear(x.double(), weight.double(), bias.double())
    whole = kernels.linear(x, weight, bias, act)  # type: ignore[arg-type]
    torch.testing.assert_close(whole.double(), want if act is None else activate(want, act), atol=1e-5, rtol=1e-5)  # type: ignore[arg-type]
    for n in (2, 3, 4, 7, 64, 255):
        assert torch.equal(kernels.linear(x[:n], weight, bias, act), whole[:n])  # type: ignore[arg-type]
    sick = x.clone()
    sick[5] = torch.nan
    out = kernels.linear(sick, weight, bias, act)  # type: ignore[arg-type]
    assert out[5].isnan().all() and torch.equal(out[6:], whole[6:])


@ONEDNN
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_tensor_is_as_long_as_the_pack_but_those_of_the_workspace(dtype: torch.dtype) -> None:
    encoder = build("clip").to(dtype)
    p = make_pack(((1, 40, 40),) * 4)
    peaks = {}
    for products in ("blas", "onednn"):
        encoder.set_run_options(RunOptions(products=products))  # type: ignore[arg-type]
        with torch.no_grad():
            peaks[products] = allocated(lambda: encoder(p))
    assert peaks["onednn"] <= 1.02 * peaks["blas"], peaks


# ---- the choice


@ONEDNN
@pytest.mark.parametrize(("seconds", "products"), [(SLOW, "onednn"), (FAST, "blas")])
def test_the_faster_one_is_measured_once_and_kept(
    seconds: dict[str, float], products: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = says(monkeypatch, seconds)
    assert kernels.chosen(torch.float32) == (products, None, "measured", seconds)
    kernels.chosen.cache_clear()  # another process
    assert kernels.chosen(torch.float32) == (products, None, "kept", seconds)
    assert asked == [torch.float32]
    (file,) = cache.iterdir()
    assert torch.__version__ in json.loads(file.read_text())["machine"]


@ONEDNN
@pytest.mark.parametrize(
    "text", ["", "[]", '{"seconds": "os.system"}', '{"seconds": {"blas": "x"}}', '{"seconds": {"blas": 1.0}}']
)
def test_a_file_that_is_none_of_ours_is_measured_again(text: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, SLOW)
    kernels.chosen(torch.float32)
    (file,) = cache.iterdir()
    file.write_text(text)
    kernels.chosen.cache_clear()
    assert kernels.chosen(torch.float32) == ("onednn", None, "measured", SLOW)


@ONEDNN
def test_of_two_processes_the_first_answer_is_everybodys(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def slow_trial(dtype: torch.dtype) -> tuple[dict[str, float], bool]:
        says(monkeypatch, FAST)  # meanwhile another process measures, and keeps
        kernels.chosen.__wrapped__(dtype)
        return SLOW, True

    monkeypatch.setattr(kernels, "trial", slow_trial)
    assert kernels.chosen(torch.float32) == ("blas", None, "kept", FAST)


@ONEDNN
def test_nothing_is_measured_where_it_cannot_be_kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.write_text("a file where the folder should be")
    asked = says(monkeypatch, SLOW)
    found = kernels.chosen(torch.float32)
    assert found[:2] == ("blas", None) and "cannot be written" in found.why
    assert asked == []


@ONEDNN
def test_the_answer_of_a_busy_machine_counts_for_an_hour(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, FAST, quiet=False)
    assert kernels.chosen(torch.float32) == ("blas", None, "measured beside other work", FAST)
    (file,) = cache.iterdir()
    busy = ("blas", None, "kept for an hour, measured beside other work", FAST)
    for age, want in ((0.9, busy), (1.1, ("onednn", None, "measured", SLOW))):
        then = file.stat().st_mtime - age * kernels.BUSY_S
        os.utime(file, (then, then))
        asked = says(monkeypatch, SLOW)
        kernels.chosen.cache_clear()  # another process
        assert kernels.chosen(torch.float32) == want
        os.utime(file)
    assert asked == [torch.float32]
    then = file.stat().st_mtime - 100 * kernels.BUSY_S  # of a quiet one, and for good
    os.utime(file, (then, then))
    kernels.chosen.cache_clear()
    assert kernels.chosen(torch.float32) == ("onednn", None, "kept", SLOW)


@ONEDNN
@pytest.mark.parametrize(("worked", "quiet"), [(0.9, True), (0.6, False)])
def test_a_trial_knows_whether_its_threads_had_their_cores(
    worked: float, quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: next(now), process_time=lambda: next(now) * worked)
    monkeypatch.setattr(kernels, "time", clock)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    # each clock is read twice about a call, the other between: a call takes two ticks of either
    assert kernels.trial(torch.float32, limit_s=1e9)[1] == quiet


@ONEDNN
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_trial_ends_in_time_whatever_it_is_given(dtype: torch.dtype) -> None:
    seconds, _ = kernels.trial(dtype, limit_s=0.0)
    rows = kernels.SEGMENTS if attention_sigmoid.able(dtype) else ()
    attention = {f"{name} {n}" for n in rows for name in ("sdpa", "sigmoid")}
    assert seconds.keys() == {"blas", "onednn"} | attention and all(0 < s < float("inf") for s in seconds.values())


@pytest.mark.parametrize(
    ("short", "middle", "long", "rows"), [(0.8, 0.7, 0.6, 384), (1.1, 0.9, 0.7, 576), (2.0, 1.5, 0.9, 1024)]
)
def test_attention_is_chosen_by_itself_from_where_it_pays(
    short: float, middle: float, long: float, rows: int, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "able", lambda dtype: True)
    monkeypatch.setattr(attention_sigmoid, "able", lambda dtype: dtype == torch.bfloat16)
    by_sdpa = {f"sdpa {n}": 1.0 for n in (384, 576, 1024)}
    says(monkeypatch, {**FAST, **by_sdpa, "sigmoid 384": short, "sigmoid 576": middle, "sigmoid 1024": long})
    assert kernels.chosen(torch.bfloat16)[:2] == ("blas", rows)
    assert kernels.resolve_attention("auto", torch.bfloat16) == rows
    assert kernels.resolve_attention("blas", torch.bfloat16) is None
    assert kernels.resolve_attention("onednn", torch.bfloat16) == 384
    assert kernels.resolve_attention("onednn", torch.float32) is None


def test_attention_that_never_pays_is_torchs(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "able", lambda dtype: True)
    says(monkeypatch, {**FAST, **{f"{name} {n}": 1.0 for n in (384, 576, 1024) for name in ("sdpa", "sigmoid")}})
    assert kernels.chosen(torch.bfloat16).sigmoid_rows is None


def test_what_cannot_run_is_said(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setattr(kernels, "able", lambda dtype: False)
    assert kernels.chosen(torch.float32).products == "blas"
    with pytest.raises(ConfigError):
        kernels.resolve_products("onednn", torch.float32)
    assert list(cache.parent.iterdir()) == []
