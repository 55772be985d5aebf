"""Ceilings: what passes, what does not, and what the refusal says."""

import dataclasses
import math
import pickle

import pytest

from tubelet import Limits
from tubelet.errors import LimitError

NAMES = [f.name for f in dataclasses.fields(Limits)]


def test_the_stated_defaults():
    assert Limits().max_pixels == 64_000_000
    assert Limits().max_bytes == 512 * 2**20
    assert Limits().max_tokens == 2**31 - 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0, -1, math.nan])
def test_every_limit_must_be_above_zero(name, value):
    kind = type(getattr(Limits(), name))
    if kind is int and math.isnan(value):
        value = -(2**40)
    with pytest.raises(LimitError, match=f"limit {name} must be above zero") as caught:
        Limits(**{name: kind(value)})
    assert caught.value.limit == name


@pytest.mark.parametrize("name", NAMES)
def test_a_limit_is_inclusive_and_says_what_was_counted(name):
    limits = Limits(**{name: type(getattr(Limits(), name))(1000)})
    limits.check(name, 1000, "apples")
    with pytest.raises(LimitError) as caught:
        limits.check(name, 1001, "apples")
    assert (caught.value.limit, caught.value.got) == (1000, 1001)
    assert str(caught.value) in (f"apples 1,001 is above {name} = 1,000", f"apples 1,001 is above {name} = 1,000.0")


@pytest.mark.parametrize("got", [math.nan, math.inf])
def test_what_is_no_number_is_above_every_limit(got):
    with pytest.raises(LimitError):
        Limits().check("max_seconds", got, "length")


def test_a_limit_may_be_raised_to_none_at_all():
    Limits(max_seconds=math.inf).check("max_seconds", 1e300, "length")


@pytest.mark.parametrize(
    ("width", "height", "limit"),
    [
        (8000, 8000, None),
        (8001, 8000, "max_pixels"),
        (65_536, 1, "max_side"),
        (1, 65_536, "max_side"),
        (65_535, 1, None),
        (1, 65_535, None),
        (1, 1, None),
        (2**31, 2**31, "max_side"),
    ],
)
def test_a_picture_is_measured_by_side_area_and_ratio(width, height, limit):
    if limit is None:
        Limits().check_picture(width, height)
        return
    with pytest.raises(LimitError, match=limit) as caught:
        Limits().check_picture(width, height)
    assert caught.value.limit == getattr(Limits(), limit)
    assert caught.value.got > caught.value.limit


def test_a_ratio_may_be_limited():
    limits = Limits(max_ratio=200)
    limits.check_picture(2000, 10)
    for width, height in ((2001, 10), (10, 2001)):
        with pytest.raises(LimitError, match="max_ratio") as caught:
            limits.check_picture(width, height)
        assert caught.value.got > caught.value.limit == 200


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (-3, 5)])
def test_a_picture_without_content_is_refused(width, height):
    with pytest.raises(LimitError, match="no content"):
        Limits().check_picture(width, height)


def test_a_clip_is_measured_by_frames_and_by_their_area_together():
    limits = Limits(max_frames=100, max_clip_pixels=1_000_000)
    limits.check_clip(100, 100, 100)
    with pytest.raises(LimitError, match="max_frames = 100"):
        limits.check_clip(101, 10, 10)
    with pytest.raises(LimitError, match="max_clip_pixels = 1,000,000") as caught:
        limits.check_clip(100, 100, 101)
    assert caught.value.got == 1_010_000


def test_limits_are_values():
    assert Limits(max_pixels=5) == Limits(max_pixels=5)
    assert hash(Limits(max_pixels=5)) == hash(Limits(max_pixels=5))
    assert pickle.loads(pickle.dumps(Limits(max_pixels=5))) == Limits(max_pixels=5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Limits().max_pixels = 5  # type: ignore[misc]
