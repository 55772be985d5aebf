"""Our dataclasses as plain values and back, and what a file may not say."""

import json
from fractions import Fraction
from typing import Any

import pytest

from tubelet.encoder.config import EncoderConfig, Head, Merger, Rope, Table
from tubelet.errors import ConfigError, LimitError
from tubelet.families.catalogue import families
from tubelet.language.placing.rules import PositionRule
from tubelet.language.project.projector import ProjectorConfig
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.views_plan import ViewRule
from tubelet.weights.plain import checked_fields, from_plain, to_plain

NETWORKS = {name: config for family in families() for name, config in family.variants.items()}
OTHERS = {
    "view rule": ViewRule(28, ((28, 56), (56, 28)), pool="max", join="unpad", compat="transformers-5"),
    "position rule": PositionRule("seconds", Fraction(25, 3)),
    "projector": ProjectorConfig("spatial_merge", 8, 16, merge=2, odd="crop"),
    "everything": EncoderConfig(
        64, 4, 2, 96, PixelRecipe(16, merge=2, order="block"), norm="rms", head_eps=1e-5, rope=None, post_norm="pooled",
        merger=Merger(2, 8, joined=True), table=Table(4, 4, "sincos"), prefix=2, spans=("window", "frame"), span_side=4,
        qk_norm="layer", head=Head("first"), deepstack=(1,), deepstack_merger=Merger(2, 8),
    ),
}  # fmt: skip


@pytest.mark.parametrize("value", [*NETWORKS.values(), *OTHERS.values()], ids=[*NETWORKS, *OTHERS])
def test_every_configuration_comes_back_through_json(value: Any):
    said = json.loads(json.dumps(to_plain(value)))
    assert from_plain(type(value), said) == value


def test_fractions_are_written_as_text():
    assert to_plain(PositionRule("seconds", Fraction(25, 3)))["tokens_per_second"] == "25/3"
    assert to_plain(PositionRule("seconds", 2))["tokens_per_second"] == "2"
    assert to_plain(PositionRule("seconds", 0.5))["tokens_per_second"] == "1/2"
    assert from_plain(PositionRule, {"time": "seconds", "tokens_per_second": 0.5}).tokens_per_second == Fraction(1, 2)


WHOLE = to_plain(OTHERS["everything"])


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"depth": 3}, r"net\.depth"),
        ({"hidden": "64"}, r"net\.hidden"),
        ({"hidden": True}, r"net\.hidden"),
        ({"hidden": 64.0}, r"net\.hidden"),
        ({"hidden": 1 << 40}, r"net\.hidden"),
        ({"eps": float("nan")}, r"net\.eps"),
        ({"eps": "1e-6"}, r"net\.eps"),
        ({"gated": 1}, r"net\.gated"),
        ({"norm": "batch"}, r"net\.norm"),
        ({"norm": True}, r"net\.norm"),
        ({"post_norm": "all"}, r"net\.post_norm"),
        ({"post_norm": 1}, r"net\.post_norm"),
        ({"spans": "frame"}, r"net\.spans"),
        ({"spans": ["row"]}, r"net\.spans"),
        ({"spans": ["frame"] * 2000}, r"net\.spans"),
        ({"merger": {"merge": 2, "out": 8, "norm": 1}}, r"net\.merger\.norm"),
        ({"merger": {"merge": 2}}, r"net\.merger\.out"),
        ({"merger": [2, 8]}, r"net\.merger"),
        ({"rope": {"split": [1, 2]}}, r"net\.rope\.split"),
        ({"rope": {"split": [1, 2, None]}}, r"net\.rope\.split"),
        ({"pixels": None}, r"net\.pixels"),
        ({"pixels": {"patch": 16, "max_pixels": 0}}, r"net\.pixels\.max_pixels"),
        ({"pixels": {"patch": 0}}, r"net\.pixels"),
        ({"table": {"height": 2, "width": 2, "resize": "bicubic", "auto_map": {}}}, "name code"),
        ({"heads": 3}, "net"),
    ],
    ids=str,
)
def test_a_field_that_does_not_fit_is_named(change: dict[str, Any], path: str):
    with pytest.raises(ConfigError, match=path):
        from_plain(EncoderConfig, WHOLE | change, "net")


def test_what_the_dataclass_refuses_is_the_cause():
    with pytest.raises(ConfigError, match="do not divide hidden") as caught:
        from_plain(EncoderConfig, WHOLE | {"heads": 3}, "net")
    assert isinstance(caught.value.__cause__, ConfigError)
    assert not isinstance(caught.value, LimitError)


def test_fields_can_be_checked_alone():
    assert checked_fields(Rope, {"theta": 5}) == {"theta": 5}
    with pytest.raises(ConfigError, match="missing"):
        from_plain(Table, {"height": 2, "width": 2})
    for wrong in ("1/0", "x", "1" * 200, True, None, float("inf")):
        with pytest.raises(ConfigError, match=r"rule\.tokens_per_second"):
            checked_fields(PositionRule, {"tokens_per_second": wrong}, "rule")
