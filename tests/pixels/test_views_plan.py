"""Views by arithmetic: upstream's own answers, and a slow twin that cuts and unpads a grid of numbered tokens."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from tubelet.errors import ConfigError, ShapeError
from tubelet.pixels.views_plan import LAVIDA, Pool, ViewRule

GOLDEN = Path(__file__).parents[1] / "golden" / "shirg"
UNPOOLED = ViewRule(384, LAVIDA.pinpoints)


def test_canvases_and_grids_are_upstreams():
    case = load_file(GOLDEN / "lavida_best_resolution.safetensors")
    for (width, height), canvas, grid in zip(
        case["input.sizes_wh"].tolist(),
        case["output.best_resolution_wh"].tolist(),
        case["output.grid_wh"].tolist(),
        strict=True,
    ):
        found = LAVIDA.tiling(height, width)
        assert [found.pad.width, found.pad.height] == canvas
        assert [found.cols, found.rows] == grid


@pytest.mark.parametrize(
    ("width", "height", "views", "tokens"),
    [  # of the run upstream: views of two pictures, prompt lengths of the others without their text
        (640, 400, 5, None),
        (256, 704, 3, None),
        (768, 768, 5, 1008),
        (1000, 600, 5, 660),
        (400, 900, 4, 676),
        (800, 640, 5, 834),
        (1100, 350, 4, 798),
    ],
)
def test_views_and_prompt_lengths_are_upstreams(width: int, height: int, views: int, tokens: int | None):
    assert len(LAVIDA.tiling(height, width).names) == views
    if tokens is not None:
        assert sum(LAVIDA.tokens(height, width, (27, 27))) == tokens


def test_five_views_of_729():
    assert UNPOOLED.tokens(768, 768, (27, 27)) == (729,) * 5
    flat = ViewRule(384, LAVIDA.pinpoints, pool="bilinear")
    assert sum(flat.tokens(768, 768, (27, 27))) == 980
    assert ViewRule(384, LAVIDA.pinpoints, pool="average").pooled((27, 27)) == (13, 13)


def spliced(rule: ViewRule, height: int, width: int, grid: tuple[int, int]) -> list[int]:
    """Tokens of each view, by joining numbered tokens to one picture and cutting its borders, as upstream does."""
    found = rule.tiling(height, width)
    h, w = rule.pooled(grid)
    number = np.arange(1, 1 + found.rows * found.cols).reshape(found.rows, 1, found.cols, 1)
    joined = np.broadcast_to(number, (found.rows, h, found.cols, w)).reshape(found.rows * h, found.cols * w)
    last = joined[:, -1]
    rows, cols = joined.shape
    if width / height > cols / rows:
        border = (rows - int(height * (cols / width))) // 2
        joined, last = joined[border : rows - border], last[border : rows - border]
    else:
        border = (cols - int(width * (rows / height))) // 2
        joined = joined[:, border : cols - border]
    ended = np.concatenate([joined, last[:, None]], axis=1)  # a newline after each row, with the tile at its end
    return [h * w, *(int((ended == i).sum()) for i in number.ravel())]


@given(
    st.integers(1, 3000),
    st.integers(1, 3000),
    st.sampled_from(["bilinear", "average", "max", None]),
    st.integers(2, 28),
)
@settings(max_examples=150, deadline=None)
def test_tokens_of_each_view_equal_the_splice(height: int, width: int, pool: Pool | None, side: int):
    rule = ViewRule(384, LAVIDA.pinpoints, pool=pool, join="unpad")
    assert list(rule.tokens(height, width, (side, side))) == spliced(rule, height, width, (side, side))


def test_tiles_fill_their_canvas():
    with pytest.raises(ConfigError):
        ViewRule(384, ((384, 700),))
    with pytest.raises(ConfigError):
        ViewRule(384, ((768, 768),), most=9)  # nothing is sampled down where nothing is unpadded
    with pytest.raises(ConfigError):
        ViewRule(384, (), join="unpad", most=0)
    for wrong in ({"canvas": "multiple", "join": "unpad"}, {"canvas": "filled", "join": "spatial"}, {"longest": 0}):
        with pytest.raises(ConfigError):
            ViewRule(384, (), **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        ViewRule(384, ((768, 768),), canvas="multiple")
    with pytest.raises(ShapeError):
        LAVIDA.tiling(0, 5)
