"""Whether all of a clip is there: what its container declares against what its packets hold.

FFmpeg reports no error where the bytes end. Neither the container's structure nor the stream's header nor the packets
are enough alone: headers of whole files are often a frame off, and a file cut behind its last picture lacks nothing.
"""

import itertools
import statistics
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import av.container
import av.video

from tubelet.reading.video.packets import PacketIndex
from tubelet.reading.video.structure import Media, Structure

_DEEPEST: Final = 16  # no codec holds back more pictures; times that ask for it are damaged


def judge(
    index: PacketIndex,
    stream: av.video.VideoStream,
    structure: Structure,
    tick: Fraction,
    stopped: bool,
    container: av.container.InputContainer,
) -> None:
    """Sets `cut` and `declared_s` by what the structure, the header and the packets say together.

    stopped: reading the packets ended early. A cut in what follows the last picture (an index, the sound) is not a cut
    of the video: where the file says how much video it has, by number or by length, and all of that is there, nothing
    is missing.
    """
    step = usual_step(index.starts_s)
    there = len(index.size) + index.blanks
    if index.kind == "AVI":
        there = _ticks(index, there, stream, structure, tick, step)
    declared = _declared_length(index, there, stream, structure, tick)
    index.declared_s = max(index.duration_s, declared or 0.0)
    missing_s = index.declared_s - index.duration_s
    ends_early = missing_s > step * 1.5 + 0.005  # a header may count one frame too many
    # `whole`: the pictures are known to be there, whatever the file lost behind them. `short`: some are known to be
    # missing, whatever the chain of boxes looks like.
    if index.kind == "MP4":
        media = structure.media.get(stream.id, Media(samples=stream.frames))
        # where an edit list shows less than the track has, the demuxer may leave out samples that are there
        listed, trimmed = media.samples, not structure.fragmented and media.shown_s < media.media_s - step
        # the samples of lost fragments are listed nowhere: the count proves nothing unless the cut comes after them
        whole = 0 < listed <= there and (structure.after_media or not structure.fragmented)
        short = ends_early or (listed > there and not trimmed)
    elif index.kind == "AVI":  # its header counts ticks, and an index at the end may be gone without harm
        whole, short = 0 < stream.frames <= there, stream.frames > there
    else:  # MKV and WEBM count nothing: the length in the track's tags is all there is
        whole = structure.after_media and declared is not None and missing_s <= step / 2 + 0.002
        short = ends_early
    lost = structure.missing_bytes > 0 and not whole
    index.cut = stopped or lost or short or structure.broken or index.reorder > _DEEPEST or index.early > 2 * _DEEPEST
    if index.cut and declared is None and container.duration is not None:
        index.declared_s = max(index.declared_s, container.duration / 1e6)  # of the longest stream, in microseconds
    if not index.cut:  # a header's last fraction of a frame is no missing video
        index.declared_s = index.duration_s


def _ticks(
    index: PacketIndex, there: int, stream: av.video.VideoStream, structure: Structure, tick: Fraction, step: float
) -> int:
    """How many ticks of an AVI's clock are there, to the end of its last picture.

    There is a chunk for each tick, and those between pictures are empty: one a picture where the clock is that of the
    pictures, 25 where it counts 600 a second. FFmpeg leaves empty ones out where there is an index, which lists them.
    """
    stamps = [stamp for stamp in index.dts if stamp is not None]
    usual = max(1, round(step / float(tick))) if tick > 0 else 1
    listed = 0 if structure.damaged else structure.media.get(stream.index + 1, Media()).samples
    return max(there, listed, max(stamps) + usual if stamps else 0)


def usual_step(starts: Sequence[float]) -> float:
    """The usual time from one frame to the next, 0.0 for a single frame."""
    gaps = [b - a for a, b in itertools.pairwise(starts) if b > a]
    return statistics.median(gaps) if gaps else 0.0


def _declared_length(
    index: PacketIndex, there: int, stream: av.video.VideoStream, structure: Structure, tick: Fraction
) -> float | None:
    """Seconds of video from the first picture shown, as the file declares for this stream; None where it does not."""
    if index.kind == "MP4":
        return structure.declared_s if structure.fragmented else structure.media.get(stream.id, Media()).shown_s or None
    if index.kind == "AVI":
        lost = stream.frames - there
        return index.duration_s + float(max(0, lost) * tick) if stream.frames > 0 else None
    end_s = _clock_time(stream.metadata.get("DURATION", ""))  # counted from the file's zero, not from the first picture
    first = index.pts[index.order[0]]
    return None if end_s is None else end_s - float((first or 0) * tick)


def _clock_time(text: str) -> float | None:
    """Seconds of "hh:mm:ss.fraction", None for anything else."""
    parts = text.split(":")
    if len(parts) != 3 or not all(p.replace(".", "", 1).isdigit() and p.isascii() for p in parts):
        return None
    return float(parts[0]) * 3600 + float(parts[1]) * 60 + float(parts[2])
