"""Whether all of a clip is there: what its container declares against what its packets hold."""

import itertools
import statistics
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import av.container
import av.video

from tubelet.reading.sniff import Format
from tubelet.reading.video.packets import PacketIndex, Row
from tubelet.reading.video.structure import Media, Structure

_DEEPEST: Final = 16  # no codec holds back more pictures; times that ask for it are damaged


def usual_step(starts: Sequence[float]) -> float:
    """The usual time from one frame to the next, 0.0 for a single frame."""
    gaps = [b - a for a, b in itertools.pairwise(starts) if b > a]
    return statistics.median(gaps) if gaps else 0.0


def judge(
    index: PacketIndex,
    rows: Sequence[Row],
    stream: av.video.VideoStream,
    kind: Format,
    structure: Structure,
    tick: Fraction,
    stopped: bool,
    container: av.container.InputContainer,
) -> None:
    """Sets `cut` and `declared_s` by what the structure, the header and the packets say together.

    A cut in what follows the last picture (an index, the sound) is not a cut of the video: where the file says how much
    video it has, by number or by length, and all of that is there, nothing is missing.
    """
    step = usual_step(index.starts_s)
    declared = _declared_length(index, rows, stream, kind, structure, tick)
    index.declared_s = max(index.duration_s, declared or 0.0)
    missing_s = index.declared_s - index.duration_s
    ends_early = missing_s > step * 1.5 + 0.005
    there = len(rows) + index.blanks
    if kind == "MP4":
        media = structure.media.get(stream.id, Media(samples=stream.frames))
        listed, trimmed = media.samples, not structure.fragmented and media.shown_s < media.media_s - step
        whole = 0 < listed <= there and (structure.after_media or not structure.fragmented)
        short = ends_early or (listed > there and not trimmed)
    elif kind == "AVI":
        whole, short = 0 < stream.frames <= there, stream.frames > there
    else:
        whole = structure.after_media and declared is not None and missing_s <= step / 2 + 0.002
        short = ends_early
    lost = structure.missing_bytes > 0 and not whole
    index.cut = stopped or lost or short or structure.broken or index.reorder > _DEEPEST or index.early > 2 * _DEEPEST
    if index.cut and declared is None and container.duration is not None:
        index.declared_s = max(index.declared_s, container.duration / 1e6)
    if not index.cut:
        index.declared_s = index.duration_s


def _declared_length(
    index: PacketIndex,
    rows: Sequence[Row],
    stream: av.video.VideoStream,
    kind: Format,
    structure: Structure,
    tick: Fraction,
) -> float | None:
    """Seconds of video from the first picture shown, as the file declares for this stream; None where it does not."""
    if kind == "MP4":
        return structure.declared_s if structure.fragmented else structure.media.get(stream.id, Media()).shown_s or None
    if kind == "AVI":
        lost = stream.frames - len(rows) - index.blanks
        return index.duration_s + float(max(0, lost) * tick) if stream.frames > 0 else None
    end_s = _clock_time(stream.metadata.get("DURATION", ""))
    first = index.pts[index.order[0]]
    return None if end_s is None else end_s - float((first or 0) * tick)


def _clock_time(text: str) -> float | None:
    """Seconds of "hh:mm:ss.fraction", None for anything else."""
    parts = text.split(":")
    if len(parts) != 3 or not all(p.replace(".", "", 1).isdigit() and p.isascii() for p in parts):
        return None
    return float(parts[0]) * 3600 + float(parts[1]) * 60 + float(parts[2])
