"""The FLOPs of every option, by formula, against torch's counter."""

import pytest
from tests.encoder.test_options import OPTIONS, build, pack_for
from tests.encoder.test_spans import SPANS, build_spans, pack_spans, scenes_for
from tests.inspect.budget.budget_cases import flop_counter

from tubelet.encoder.layout import layout_of
from tubelet.inspect.budget.flops import encoder_flop, training_flop, window_lengths


@pytest.mark.parametrize("name", OPTIONS)
def test_equal_torchs_counter(name: str) -> None:
    encoder = build(name)
    p = pack_for(encoder)
    grids = [i.grid for i in p.items]
    with flop_counter() as counter:  # with gradients: products into given memory are not counted
        encoder.features(p)
    planned = encoder_flop(encoder.config, grids, pool=encoder.pool is not None)
    assert sum(planned.values()) == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("name", SPANS)
def test_spans_equal_torchs_counter(name: str) -> None:
    encoder = build_spans(name)
    p, scenes = pack_spans(encoder), scenes_for(encoder)
    with flop_counter() as counter:
        encoder.trunk(p, scenes=scenes)
    planned = encoder_flop(encoder.config, [i.grid for i in p.items], scenes=scenes)
    assert sum(planned.values()) == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize("name", OPTIONS)
def test_training_equals_torchs_counter(name: str) -> None:
    encoder = build(name)
    p = pack_for(encoder)
    with flop_counter() as counter:
        f = encoder.features(p)
        loss = f.tokens.x.sum() + sum(d.x.sum() for d in f.deepstack)
        (loss if f.pooled is None else loss + f.pooled.sum()).backward()
    planned = training_flop(encoder.config, [i.grid for i in p.items], pool=encoder.pool is not None)
    assert sum(planned.values()) == pytest.approx(counter.get_total_flops(), rel=0.01)


def test_windows_are_those_of_the_encoder() -> None:
    encoder = build("windows")
    p = pack_for(encoder)
    windows = layout_of(p, encoder.config).spans["window"]
    assert windows.lengths == window_lengths(encoder.config, [i.grid for i in p.items])
