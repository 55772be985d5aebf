"""An estimate cannot be printed without its interval, however it is printed."""

import json
import math

import pytest

from tubelet.errors import InputError
from tubelet.inspect.metrics import Estimate
from tubelet.inspect.metrics.estimate import undefined

KNOWN = Estimate(0.5, 0.25, 0.75, 12)
ONE = Estimate(0.5, math.nan, math.nan, 1)


@pytest.mark.parametrize(
    "text",
    [
        str(KNOWN),
        repr(KNOWN),
        f"{KNOWN}",
        f"{KNOWN:.3f}",
        f"{KNOWN!r:>60}",
        f"{KNOWN!s}",
        format(KNOWN, ".3f"),
        "%s" % KNOWN,  # noqa: UP031
        "%r" % (KNOWN,),  # noqa: UP031
        str([KNOWN]),
        str({"coverage": KNOWN}),
    ],
)
def test_every_way_to_print_it_shows_the_interval_and_n(text: str):
    assert "0.500 [0.250, 0.750] n=12" in text


def test_an_interval_that_is_not_known_is_said_to_be_so():
    for text in (str(ONE), repr(ONE), f"{ONE:.3f}"):
        assert "0.500 [unknown] n=1" in text
    assert "undefined [unknown] n=0" in repr(undefined())
    assert str(Estimate(2.0, 1.0, math.inf, 20)) == "2.000 [1.000, inf] n=20"
    assert not ONE.known
    assert KNOWN.known


def test_numbers_of_any_size_are_readable():
    assert str(Estimate(0.0, 0.0, 1e-5, 3)) == "0.000 [0.000, 1e-05] n=3"
    assert str(Estimate(-12345.0, -2e4, -0.5, 3)) == "-1.23e+04 [-2e+04, -0.500] n=3"
    assert f"{Estimate(0.123, 0.1, 0.2, 3):.1%}" == "12.3% [10.0%, 20.0%] n=3"


def test_for_json_what_is_not_known_is_none():
    assert json.loads(json.dumps(ONE.as_dict(), allow_nan=False)) == {"value": 0.5, "low": None, "high": None, "n": 1}
    assert KNOWN.as_dict() == {"value": 0.5, "low": 0.25, "high": 0.75, "n": 12}
    assert Estimate(2.0, 1.0, math.inf, 20).as_dict()["high"] is None


@pytest.mark.parametrize(
    "wrong",
    [(0.5, 0.6, 0.7, 3), (0.5, 0.7, 0.3, 3), (0.5, math.nan, 0.7, 3), (math.nan, 0.0, 1.0, 3), (0.5, 0.0, 1.0, 0)],
)
def test_an_interval_holds_its_value(wrong: tuple[float, float, float, int]):
    with pytest.raises(InputError):
        Estimate(*wrong)


def test_no_number_can_be_made_of_it_by_accident():
    with pytest.raises(TypeError):
        float(KNOWN)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError):
        round(KNOWN, 2)  # pyright: ignore[reportCallIssue, reportArgumentType]
