"""Configurations of strangers: every field known by name, type and range, and none that can name code."""

import math
from typing import Any

import pytest

from tubelet.errors import ConfigError
from tubelet.families.fields import ACTS, CODE_FIELDS, HARMLESS_FIELDS, Field, read_fields, refuse_code

FIELDS: dict[str, Any] = {
    "depth": 24,
    "skipped": 0,
    "eps": 1e-6,
    "bias": True,
    "hidden_act": Field("gelu", choices=ACTS),
    "num_channels": Field(3, choices=(3,)),
    "window": Field(None, kind=int),
    "size": Field(448, none=True),
    "full": [7, 15],
    "share": Field(1.0, least=0.5, most=2),
    "rope": Field({"theta": 1e4, "kind": Field("default", choices=("default",))}),
}


def test_defaults_are_upstreams() -> None:
    assert read_fields({}, FIELDS) == {
        "depth": 24,
        "skipped": 0,
        "eps": 1e-6,
        "bias": True,
        "hidden_act": "gelu",
        "num_channels": 3,
        "window": None,
        "size": 448,
        "full": (7, 15),
        "share": 1.0,
        "rope": {"theta": 1e4, "kind": "default"},
    }


def test_values_are_read() -> None:
    said = {
        "depth": 1,
        "skipped": 0,
        "eps": 1,
        "bias": False,
        "hidden_act": "gelu_pytorch_tanh",
        "window": 4,
        "size": None,
        "full": [0],
        "rope": {"theta": 500},
    }
    read = read_fields(said, FIELDS)
    assert (read["depth"], read["bias"], read["hidden_act"]) == (1, False, "gelu_tanh")
    assert (read["window"], read["size"], read["full"]) == (4, None, (0,))
    assert read["eps"] == 1.0
    assert isinstance(read["eps"], float)
    assert read["rope"] == {"theta": 500.0, "kind": "default"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("depth", 0),
        ("depth", -1),
        ("depth", 2.0),
        ("depth", True),
        ("depth", "24"),
        ("depth", None),
        ("depth", 1025),
        ("depth", [24]),
        ("skipped", -1),
        ("eps", math.nan),
        ("eps", math.inf),
        ("eps", -1e-6),
        ("eps", False),
        ("bias", 1),
        ("hidden_act", "relu"),
        ("hidden_act", 3),
        ("hidden_act", ["gelu"]),
        ("num_channels", 4),
        ("window", 0),
        ("full", [True]),
        ("full", [-1]),
        ("full", [1 << 21]),
        ("full", [0] * 1025),
        ("full", 7),
        ("full", "7"),
        ("share", 0.4),
        ("share", 2.1),
        ("rope", None),
        ("rope", []),
        ("rope", {"theta": "x"}),
        ("rope", {"kind": "yarn"}),
        ("rope", {"other": 1}),
        ("other", 1),
    ],
)
def test_what_does_not_fit_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"\\b{name}\\b"):
        read_fields({name: value}, FIELDS)


def test_inert_fields_are_let_pass_and_nothing_else() -> None:
    assert read_fields({"dropout": "?", "torch_dtype": "bfloat16", "architectures": 3}, {}, inert={"dropout"}) == {}
    with pytest.raises(ConfigError, match="unknown field dropout"):
        read_fields({"dropout": 0.1}, {})


@pytest.mark.parametrize("name", sorted(CODE_FIELDS))
@pytest.mark.parametrize("place", ["", "deep"])
def test_fields_that_name_code_are_refused_anywhere(name: str, place: str) -> None:
    config: dict[str, Any] = {name: None}
    if place:
        config = {"rope": {"kind": [1, {"x": config}]}}
    for read in (lambda: read_fields(config, FIELDS), lambda: refuse_code(config)):
        with pytest.raises(ConfigError, match=f"{name} can name code"):
            read()
    assert name not in HARMLESS_FIELDS


def test_code_is_found_at_any_depth_without_recursion() -> None:
    config: Any = {"auto_map": 1}
    for _ in range(100_000):
        config = {"x": config}
    with pytest.raises(ConfigError, match="can name code"):
        refuse_code(config)
