"""High dynamic range to SDR: the one curve by which PQ and HLG code values become 8-bit sRGB, for pictures and clips.

    code values R'G'B'        of the picture's own primaries, of any number of bits
    -> light, in nits         PQ    its EOTF, 0 to 10,000
                              HLG   inverse OETF, then the OOTF of a display of 1,000 nits (gamma 1.2)
    -> rolled off             the EETF of BT.2408: up to 88 nits as it is, from there a spline to white at 1,000
    -> primaries of BT.709    3 x 3; what lies outside of them or above white is clipped, channel by channel
    -> 8 bits                 white is 203 nits, the reference white of BT.2408; inverse EOTF of sRGB

PQ (BT.2100 table 4): m1 = 2610 / 16384, m2 = 2523 / 32, c1 = 3424 / 4096, c2 = 2413 / 128, c3 = 2392 / 128;
    nits = 10000 * (max(E^(1/m2) - c1, 0) / (c2 - c3 * E^(1/m2)))^(1/m1)
HLG (BT.2100 table 5): a = 0.17883277, b = 1 - 4a, c = 0.5 - a ln(4a); Y is the luminance of E;
    E = E'^2 / 3 up to E' = 1/2, (exp((E' - c) / a) + b) / 12 above;  nits = 1000 * Y^0.2 * E
EETF (BT.2408 annex 5, as in BT.2390): e is PQ(nits) / PQ(1000), at most 1; top = PQ(203) / PQ(1000) = 0.7724;
    the knee k = 1.5 top - 0.5; above it t = (e - k) / (1 - k) and
    e' = (2t^3 - 3t^2 + 1) k + (t^3 - 2t^2 + t) (1 - k) + (3t^2 - 2t^3) top
It is applied to the largest of R, G and B, and all three are scaled alike: hues stay, and grey stays grey.

Reference white (paper, a wall in the sun) comes out at level 229 of 255; what is brighter shares the rest. The peak is
1,000 nits always, as most PQ is mastered for and as HLG is defined; brighter light is white. What mastering metadata
say is not used: they are often missing or wrong, and a frame must not depend on where decoding was entered.
Source: Rec. ITU-R BT.2100-2, BT.2408-7 annex 5, BT.2390-10 section 5.4.1; numbers of curves and primaries, H.273.
"""

from functools import lru_cache
from typing import Final, Literal, NamedTuple

import numpy as np

from tubelet.shapes import Float, UInt8

HdrMode = Literal["tonemap", "clip"]
MODES: Final = ("tonemap", "clip")

PEAK_NITS: Final = 1000.0
WHITE_NITS: Final = 203.0
_CURVES: Final[dict[int, Literal["PQ", "HLG"]]] = {16: "PQ", 18: "HLG"}
_D65: Final = (0.3127, 0.3290)
_PRIMARIES: Final = {  # x and y of red, green, blue; white is D65
    1: ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060)),  # BT.709
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),  # BT.2020
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),  # P3
}
_PQ_M1, _PQ_M2 = 2610 / 16384, 2523 / 32
_PQ_C1, _PQ_C2, _PQ_C3 = 3424 / 4096, 2413 / 128, 2392 / 128
_HLG_A: Final = 0.17883277
_HLG_B: Final = 1 - 4 * _HLG_A
_HLG_C: Final = 0.5 - _HLG_A * float(np.log(4 * _HLG_A))
_HLG_GAMMA: Final = 1.2
_ROOTS: Final = 1 << 15  # entries of a table over the square root of light: fine where the eye is
_LIGHTS: Final = 1 << 16  # entries of the table from light to levels: a step is at most 1/20 level
_BLOCK: Final = 1 << 15  # pixels at a time, so that all that is made of them stays in the cache


class Hdr(NamedTuple):
    """What code values of high dynamic range mean: the curve, and the primaries by their number in H.273."""

    curve: Literal["PQ", "HLG"]
    primaries: int = 9

    def note(self, mode: HdrMode) -> str:
        """What was done to a picture of this kind, for a person."""
        if mode == "clip":
            return f"high dynamic range ({self.curve}), shown without tone mapping"
        return (
            f"high dynamic range ({self.curve}) tone-mapped to SDR: peak {PEAK_NITS:.0f} nits, "
            f"reference white {WHITE_NITS:.0f} nits"
        )


class Span(NamedTuple):
    """Code values: which stand for black and for the peak, and how many there are."""

    black: int
    peak: int
    values: int


def hdr_of(curve: int, primaries: int) -> Hdr | None:
    """The kind of high dynamic range that H.273 numbers tell; None for any other curve. Primaries that are not stated
    or not known are taken as BT.2020, which every such system uses."""
    name = _CURVES.get(curve)
    return None if name is None else Hdr(name, primaries if primaries in _PRIMARIES else 9)


def full_span(bits: int, narrow: bool = False) -> Span:
    """The Span of RGB samples of so many bits, 8 or more; narrow: black at 16 and white at 235 of 8 bits."""
    extra = bits - 8
    return Span(16 << extra, 235 << extra, 1 << bits) if narrow else Span(0, (1 << bits) - 1, 1 << bits)


def to_sdr(
    red: np.ndarray, green: np.ndarray, blue: np.ndarray, hdr: Hdr, span: Span, out: UInt8[np.ndarray, "H W 3"]
) -> UInt8[np.ndarray, "H W 3"]:
    """`out`, filled with the 8-bit sRGB of three planes (H, W) of unsigned code values, by the curve above.

    The planes may be views of any stride. Within 0.6 level of exact arithmetic rounded at the end: 0.5 for the rounding
    itself. Elementwise and by tables, so that the same code values give the same bytes on every machine and thread.
    Cost: about 20 ns of CPU a pixel for PQ and 30 for HLG, and about 2 MB whatever the size.

    >>> code = np.full((1, 1), 594, np.uint16)  # 203 nits in PQ of 10 bits
    >>> to_sdr(code, code, code, Hdr("PQ"), full_span(10), np.empty((1, 1, 3), np.uint8)).tolist()
    [[[229, 229, 229]]]
    """
    tables = _tables(hdr, span)
    height, width = red.shape
    rows = max(1, _BLOCK // max(1, width))
    for top in range(0, height, rows):
        band = slice(top, top + rows)
        _block((red[band], green[band], blue[band]), tables, out[band])
    return out


class _Tables(NamedTuple):
    """light: of a code value; PQ displayed, in units of SDR white, HLG of the scene, 0 to 1. scale: PQ, what light is
    multiplied with, by the largest code value; HLG, the largest light when rolled off, by the root of it displayed;
    both times the entries of the table of levels. ootf: of HLG, by the root of luminance. luma: the weights of R, G
    and B in it. mix: the way of the primaries to BT.709."""

    light: Float[np.ndarray, " n"]
    scale: Float[np.ndarray, " m"]
    ootf: Float[np.ndarray, " k"] | None
    luma: tuple[np.float32, ...]
    mix: Float[np.ndarray, "3 3"]


def _block(codes: tuple[np.ndarray, ...], tables: _Tables, out: np.ndarray) -> None:
    light = [tables.light.take(plane, mode="wrap") for plane in codes]  # the fastest; no code is above the table
    if tables.ootf is None:
        scale = tables.scale.take(np.maximum(np.maximum(codes[0], codes[1]), codes[2]), mode="wrap")
    else:
        luminance = light[0] * tables.luma[0] + light[1] * tables.luma[1] + light[2] * tables.luma[2]
        ootf = _by_root(tables.ootf, luminance)
        most = np.maximum(np.maximum(light[0], light[1]), light[2])
        scale = _by_root(tables.scale, most * ootf)
        scale /= np.maximum(most, np.float32(1e-12))
    levels = _levels()
    for own, *others in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        value = light[own].copy()
        for other in others:  # by differences, so that grey comes out as exactly itself
            part = light[other] - light[own]
            part *= tables.mix[own, other]
            value += part
        value *= scale
        out[..., own] = levels.take(value.astype(np.int32), mode="clip")  # this is the clip to the gamut


def _by_root(table: np.ndarray, light: np.ndarray) -> np.ndarray:
    roots = np.sqrt(light)
    roots *= np.float32(len(table))
    return table.take(roots.astype(np.int32), mode="clip")


@lru_cache(maxsize=16)
def _tables(hdr: Hdr, span: Span) -> _Tables:
    code = np.clip((np.arange(span.values) - span.black) / (span.peak - span.black), 0, 1)
    to_xyz = _to_xyz(hdr.primaries)
    mix = (np.linalg.inv(_to_xyz(1)) @ to_xyz).astype(np.float32)
    luma = tuple(to_xyz[1].astype(np.float32))
    if hdr.curve == "PQ":
        nits = pq_to_nits(code)
        ratio = np.where(nits > 0, eetf(nits) / np.maximum(nits, 1e-12), 1.0) * _LIGHTS
        return _Tables((nits / WHITE_NITS).astype(np.float32), ratio.astype(np.float32), None, luma, mix)
    roots = (np.arange(_ROOTS) + 0.5) / _ROOTS
    ootf = (roots ** (2 * (_HLG_GAMMA - 1))).astype(np.float32)
    rolled = (eetf(PEAK_NITS * roots**2) / WHITE_NITS * _LIGHTS).astype(np.float32)
    return _Tables(hlg_to_light(code).astype(np.float32), rolled, ootf, luma, mix)


@lru_cache(maxsize=1)
def _levels() -> UInt8[np.ndarray, " n"]:
    """sRGB levels of light 0 to 1, in the middle of each step."""
    light = (np.arange(_LIGHTS) + 0.5) / _LIGHTS
    coded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(255 * coded).astype(np.uint8)


def pq_to_nits(code: np.ndarray) -> np.ndarray:
    """Light of PQ code values 0 to 1, in nits."""
    root = code ** (1 / _PQ_M2)
    return 10_000 * (np.maximum(root - _PQ_C1, 0) / (_PQ_C2 - _PQ_C3 * root)) ** (1 / _PQ_M1)


def nits_to_pq(nits: np.ndarray) -> np.ndarray:
    """PQ code values 0 to 1 of light in nits."""
    root = (nits / 10_000) ** _PQ_M1
    return ((_PQ_C1 + _PQ_C2 * root) / (1 + _PQ_C3 * root)) ** _PQ_M2


def hlg_to_light(code: np.ndarray) -> np.ndarray:
    """Light of the scene, 0 to 1, of HLG code values 0 to 1."""
    return np.where(code <= 0.5, code**2 / 3, (np.exp((code - _HLG_C) / _HLG_A) + _HLG_B) / 12)


def eetf(nits: np.ndarray) -> np.ndarray:
    """Light in nits rolled off to at most 203 nits; what is brighter than 1,000 is 203."""
    black, peak, white = nits_to_pq(np.array((0.0, PEAK_NITS, WHITE_NITS)))
    value = np.minimum((nits_to_pq(nits) - black) / (peak - black), 1)
    top = (white - black) / (peak - black)
    knee = 1.5 * top - 0.5
    t = np.maximum(value - knee, 0) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * top
    return np.where(value < knee, nits, pq_to_nits(spline * (peak - black) + black))


def _to_xyz(primaries: int) -> Float[np.ndarray, "3 3"]:
    """The matrix from light of these primaries to CIE XYZ; its second row weights luminance."""
    x, y = np.array((*_PRIMARIES[primaries], _D65)).T
    columns = np.stack((x / y, np.ones(4), (1 - x - y) / y))
    return columns[:, :3] * np.linalg.solve(columns[:, :3], columns[:, 3])
