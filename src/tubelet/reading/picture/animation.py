"""Animated GIF, WEBP, PNG and AVIF as clips: composited frames with the durations that the file states.

file -> durations of all frames -> which are wanted -> frames decoded in order, the wanted ones kept
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate

from PIL import Image

from tubelet.errors import DecodeError, LimitError
from tubelet.reading.clip import Allocate, Clip, new_frames
from tubelet.reading.hdr import HdrMode
from tubelet.reading.limits import Limits
from tubelet.reading.picture.colour import Colour, HdrCodes, grey_again, to_rgb
from tubelet.reading.picture.decode import decoding, open_picture, pack_rgb
from tubelet.reading.picture.exif import UPRIGHT
from tubelet.reading.picture.gif import read_gif
from tubelet.reading.picture.header import Header, is_animation, read_header
from tubelet.reading.picture.heif import primary_item
from tubelet.reading.picture.image import WHITE, decode_image
from tubelet.reading.picture.loading import avif_codes, hdr_codes
from tubelet.reading.picture.png import png_pixels, read_png
from tubelet.reading.sampling import Sampling
from tubelet.reading.source import Source

_PASSES = 32  # over `max_pixels`, that decoding one animation may cost
_UNTIMED_S = Fraction(1, 10)  # how long viewers show a frame that states no duration


def decode_animation(
    src: Source,
    limits: Limits,
    sampling: Sampling,
    background: Colour = WHITE,
    *,
    hdr: HdrMode = "tonemap",
    allocate: Allocate = new_frames,
) -> Clip:
    """The frames of an animation as a Clip with their true times; a picture that does not move as `decode_image`.

    sampling: which frames; with no rule given, all of them. Frames are composited as the file says, upright, and on
    `background` where they are transparent. A frame without a duration counts as 0.1 s, with a note.
    complete=False: the file stops behind a frame without saying that it ends, and may have had more.
    Cost: all frames up to the last wanted one are decoded; only the wanted ones are kept.
    Raises: as `decode_image`; DecodeError for an animation that is damaged behind its first frame; LimitError when the
    frames to be decoded together are too large; InputError from the sampling.
    """
    with decoding(src):
        header = read_header(src, limits)
        if header.fault is not None and src.format != "TIFF":
            raise DecodeError(header.fault)
        if not is_animation(src.format, header):
            clip = decode_image(src, limits, background, hdr=hdr, allocate=allocate)
            return clip if header.ended else replace(clip, complete=False, frames_expected=1)
        notes = list(header.notes)
        starts, end, wanted, untimed = moving(src, limits, sampling, header)
        if untimed:
            notes.append(f"frames without a duration are shown for {float(_UNTIMED_S)} s")
        width, height = header.upright
        frames = allocate((len(wanted), height, width, 3))
        slots: dict[int, list[int]] = {}
        for slot, index in enumerate(wanted):
            slots.setdefault(index, []).append(slot)
        codes = _codes(src, limits, hdr, notes)
        for index, picture, profile in _frames(src, limits, header, max(slots)):
            if index in slots:
                still = grey_again(picture.copy(), profile)  # of its own: converting it does not disturb the next one
                shown = _upright(to_rgb(still, background, profile, notes=notes, codes=codes), header)
                for slot in slots[index]:
                    pack_rgb(shown, frames[slot])
    return Clip(
        frames,
        tuple(starts[i] for i in wanted),
        source=src.name,
        is_video=True,
        duration_s=end,
        complete=header.ended,
        frames_expected=None if header.ended else len(wanted),
        notes=tuple(dict.fromkeys(notes)),
    )


def moving(
    src: Source, limits: Limits, sampling: Sampling, header: Header
) -> tuple[list[float], float, list[int], bool]:
    """(start of each frame in seconds, end, the frames that are wanted, whether some state no duration); only an AVIF
    is decoded for it. Raises: as `decode_animation`."""
    if src.format == "AVIF":
        _check_decoded(header, header.frames, limits)
    durations = _durations(src, limits, header)
    *ticks, last = accumulate((duration or _UNTIMED_S for duration in durations), initial=Fraction(0))
    starts, end = [float(tick) for tick in ticks], float(last)
    limits.check("max_seconds", end, "animation length in seconds")
    wanted = list(range(len(starts))) if sampling == Sampling() else sampling.choose(starts, end, limits)
    limits.check_clip(len(wanted), *header.upright)
    _check_decoded(header, max(wanted) + 1, limits)
    return starts, end, wanted, not all(durations)


def _check_decoded(header: Header, frames: int, limits: Limits) -> None:
    """Each frame is laid on the one before, so those up to the last wanted one are decoded, on the whole canvas."""
    pixels, ceiling = frames * header.width * header.height, max(limits.max_clip_pixels, _PASSES * limits.max_pixels)
    if pixels > ceiling:
        raise LimitError(
            f"{frames:,} frames of {header.width} x {header.height} up to the last one wanted = {pixels:,} pixels to "
            f"decode, above {ceiling:,} (max_clip_pixels or {_PASSES} x max_pixels)",
            limit=ceiling,
            got=pixels,
        )


def _codes(src: Source, limits: Limits, hdr: HdrMode, notes: list[str]) -> HdrCodes | None:
    src.file.seek(0)
    if src.format == "PNG":
        found = read_png(src.file, limits, whole=False)
        return hdr_codes(found.hdr, hdr, notes, narrow=found.narrow)
    return avif_codes(primary_item(src.file, limits), hdr, notes) if src.format == "AVIF" else None


def _upright(picture: Image.Image, header: Header) -> Image.Image:
    if picture.size != (header.width, header.height):  # a later frame reaches over the edge of the canvas
        picture = picture.crop((0, 0, header.width, header.height))
    if header.orientation != 1:
        picture = picture.transpose(Image.Transpose[UPRIGHT[header.orientation]])
    return picture


def _durations(src: Source, limits: Limits, header: Header) -> list[Fraction]:
    """Seconds that each frame is shown, as the file states them; 0 where it states none."""
    src.file.seek(0)
    if src.format == "GIF":
        found = [Fraction(frame.delay, 100) for frame in read_gif(src.file, limits).frames]
    elif src.format == "WEBP":
        found = list(_webp_durations(src))
    elif src.format == "PNG":
        found = read_png(src.file, limits, whole=True).durations
    else:
        picture = open_picture(src.format, src.file)  # AVIF: times come with the decoded frames
        found = []
        for index in range(header.frames):
            picture.seek(index)
            picture.load()
            found.append(Fraction(picture.info["duration"], 1000))
    src.file.seek(0)
    if len(found) != header.frames:
        raise DecodeError("the animation has fewer frames than it says", expected=header.frames, got=len(found))
    return found


def _webp_durations(src: Source) -> Iterator[Fraction]:
    place = 12
    while place + 8 <= src.size:
        src.file.seek(place)
        kind, length = struct.unpack("<4sI", src.file.read(8))
        if kind == b"ANMF":
            yield Fraction(int.from_bytes(src.file.read(16)[12:15], "little"), 1000)
        place += 8 + length + (length & 1)


def _frames(src: Source, limits: Limits, header: Header, last: int) -> Iterator[tuple[int, Image.Image, bytes | None]]:
    """(index, decoded frame, colour profile) of frames 0 to `last`, composited by Pillow."""
    src.file.seek(0)
    first, profile = 0, None
    if src.format == "PNG":
        data = src.file.read()
        found = read_png(io.BytesIO(data), limits, whole=True)
        picture = open_picture("PNG", io.BytesIO(png_pixels(data, found, motion=True)))
        first, profile = int(found.leading), found.icc
    else:
        picture = open_picture(src.format, src.file)
        profile = picture.info.get("icc_profile")
    for index in range(last + 1):
        picture.seek(first + index)
        picture.load()
        yield index, picture, profile if isinstance(profile, bytes) else None
