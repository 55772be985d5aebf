"""The slow twin of tone mapping, written from the Recommendations in float64; clips and pictures that say PQ or HLG."""

import io
import struct
import zlib
from typing import Any, Final

import av
import numpy as np

PQ, HLG = 16, 18
BT709, BT2020, P3 = 1, 9, 12
LIMITED, FULL = 1, 2

# BT.2087-0 section 2 and the like for P3, inverted: light of BT.2020 or P3 -> light of BT.709.
TO_709: Final = {
    BT709: np.eye(3),
    BT2020: np.array(
        [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]]
    ),
    P3: np.array([[1.2249402, -0.2249402, 0], [-0.0420570, 1.0420571, 0], [-0.0196376, -0.0786361, 1.0982735]]),
}
LUMA: Final = {BT709: (0.2126, 0.7152, 0.0722), BT2020: (0.2627, 0.6780, 0.0593), P3: (0.2290, 0.6917, 0.0793)}


def pq_eotf(signal: np.ndarray) -> np.ndarray:
    """BT.2100 table 4."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c2, c3 = 2413 / 4096 * 32, 2392 / 4096 * 32
    c1 = c3 - c2 + 1
    power = signal ** (1 / m2)
    return 10000 * (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1)


def pq_inverse(nits: np.ndarray | float) -> np.ndarray:
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c2, c3 = 2413 / 4096 * 32, 2392 / 4096 * 32
    power = (np.asarray(nits) / 10000) ** m1
    return ((c3 - c2 + 1 + c2 * power) / (1 + c3 * power)) ** m2


def hlg_display(signal: np.ndarray, primaries: int) -> np.ndarray:
    """BT.2100 table 5: inverse OETF, then the OOTF of 1,000 nits without black lift."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    return 1000 * (scene @ np.array(LUMA[primaries]))[..., None] ** 0.2 * scene


def rolled_off(nits: np.ndarray) -> np.ndarray:
    """BT.2408 annex 5: from a peak of 1,000 nits to 203."""
    top = pq_inverse(203.0) / pq_inverse(1000.0)
    knee = 1.5 * top - 0.5
    e = np.minimum(pq_inverse(nits) / pq_inverse(1000.0), 1)
    t = (e - knee) / (1 - knee)
    p = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * top
    return pq_eotf(np.where(e < knee, e, p) * pq_inverse(1000.0))


def sdr_levels(signal: np.ndarray, curve: int, primaries: int = BT2020) -> np.ndarray:
    """(..., 3) R'G'B' 0 to 1 -> levels 0 to 255 of sRGB, not rounded."""
    signal = np.clip(signal, 0, 1)
    nits = pq_eotf(signal) if curve == PQ else hlg_display(signal, primaries)
    most = nits.max(axis=-1, keepdims=True)
    nits = nits * np.where(most > 0, rolled_off(most) / np.where(most > 0, most, 1), 1)
    light = np.clip(nits / 203 @ TO_709[primaries].T, 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def signal_of(y: np.ndarray, cb: np.ndarray, cr: np.ndarray, bits: int, colour_range: int) -> np.ndarray:
    """Y'CbCr code values of BT.2020 (table 4 and 5) -> (..., 3) R'G'B'; of limited range or full."""
    step, middle = 1 << (bits - 8), 1 << (bits - 1)
    black, luma, chroma = (16 * step, 219 * step, 224 * step) if colour_range == LIMITED else (0, *[2**bits - 1] * 2)
    y, cb, cr = (y - black) / luma, (cb - float(middle)) / chroma, (cr - float(middle)) / chroma
    red, blue = y + 1.4746 * cr, y + 1.8814 * cb
    return np.stack([red, (y - 0.2627 * red - 0.0593 * blue) / 0.6780, blue], axis=-1)


def hdr_clip(
    codec: str,
    container: str,
    form: str,
    planes: list[list[np.ndarray]],
    *,
    curve: int = HLG,
    colour_range: int = LIMITED,
    options: dict[str, str] | None = None,
    said: bool = True,
) -> bytes:
    """A clip of 10 frames a second from the planes of each frame. said=False: without any word on its colours."""
    buffer = io.BytesIO()
    height, width = planes[0][0].shape
    with av.open(buffer, "w", format=container) as out:
        stream: Any = out.add_stream(codec, rate=10, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, form
        colours = {"color_trc": curve, "color_primaries": BT2020, "colorspace": BT2020, "color_range": colour_range}
        for name, value in colours.items() if said else ():
            setattr(stream.codec_context, name, value)
        for number, parts in enumerate(planes):
            frame = av.VideoFrame(width, height, form)
            for plane, values in zip(frame.planes, parts, strict=True):
                room = np.zeros((plane.height, plane.line_size // values.itemsize), values.dtype)
                room[:, : values.shape[1]] = values
                plane.update(room.tobytes())
            frame.pts = number
            for name, value in colours.items() if said else ():
                setattr(frame, name, value)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return buffer.getvalue()


def told_by_container(data: bytes, curve: int) -> bytes:
    """An MP4 of the same packets whose `colr` box says the curve, which its stream does not."""
    buffer = io.BytesIO()
    with av.open(io.BytesIO(data), "r") as given, av.open(buffer, "w", format="mp4") as out:
        stream: Any = out.add_stream_from_template(given.streams.video[0])
        stream.codec_context.color_trc, stream.codec_context.color_primaries = curve, BT2020
        stream.codec_context.colorspace = BT2020
        for packet in given.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    return buffer.getvalue()


def patches(seed: int, bits: int, *, size: int = 64, patch: int = 16) -> list[np.ndarray]:
    """Planes of 4:2:0 whose flat patches hold code values of every kind that is inside of the limited range and of the
    colours that there are."""
    rng = np.random.default_rng(seed)
    tint = rng.uniform(0, 1, (size // patch, size // patch, 3))
    y = tint @ np.array(LUMA[BT2020])
    cb, cr = (tint[..., 2] - y) / 1.8814, (tint[..., 0] - y) / 1.4746
    step, kind = 1 << (bits - 8), np.uint8 if bits == 8 else np.uint16
    coded = (16 * step + 219 * step * y, 128 * step + 224 * step * cb, 128 * step + 224 * step * cr)
    return [
        np.kron(np.rint(part), np.ones([patch if n == 0 else patch // 2] * 2)).astype(kind)
        for n, part in enumerate(coded)
    ]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def hdr_png(values: np.ndarray, curve: int, *more: bytes, primaries: int = BT2020, full: bool = True) -> bytes:
    """A PNG of 8 or 16 bits of (H, W, 1 to 4) values, with a cICP chunk."""
    height, width, channels = values.shape
    bits = 8 * values.itemsize
    head = struct.pack(">IIBBBBB", width, height, bits, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(f">u{values.itemsize}").tobytes() for row in values)
    parts = (chunk(b"IHDR", head), chunk(b"cICP", bytes((primaries, curve, 0, full))), *more)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
