"""What an input will be once it is decoded: its size and the times of its frames, with no pixel decoded.

picture: its header | GIF, WEBP, PNG that move: durations in their blocks | clip: headers and the list of its packets

The one count that no header holds is that of an animated AVIF under a sampling by times: its durations come with its
decoded frames. `exact` says so.
"""

from dataclasses import asdict, dataclass
from typing import Any

from tubelet.reading.job import ReadJob
from tubelet.reading.limits import Limits
from tubelet.reading.picture.animation import moving
from tubelet.reading.picture.decode import decoding
from tubelet.reading.picture.header import is_animation, read_header
from tubelet.reading.sampling import Sampling
from tubelet.reading.source import VIDEOS, Source


@dataclass(frozen=True)
class Outline:
    """What an input will be."""

    width: int  # upright, in pixels
    height: int
    times_s: tuple[float, ...]  # of the frames that will be taken; of an animated AVIF, right in their number only
    exact: bool = True  # False: there are at least so many frames
    moves: bool = False  # a clip or an animation
    duration_s: float | None = None  # of what moves, where known

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], limits: Limits) -> "Outline":
        """The Outline that `as_dict` described, after a way through JSON and from a process that is not trusted: within
        the limits. Raises LimitError; KeyError, TypeError and ValueError for anything that is none."""
        times = tuple(float(t) for t in values["times_s"])
        length = values["duration_s"]
        found = cls(
            int(values["width"]),
            int(values["height"]),
            times,
            bool(values["exact"]),
            bool(values["moves"]),
            None if length is None else float(length),
        )
        if not times:
            raise ValueError("no frame")
        limits.check_picture(found.width, found.height)
        limits.check_clip(len(times), found.width, found.height)
        return found


def outline_source(src: Source, job: ReadJob) -> Outline:
    """The Outline of what `decode_source` gives for the same input and job. Leaves the file at its start.

    Cost: of a picture, its header; of GIF, WEBP and PNG that move, a walk over their blocks; of a clip, one read.
    Raises: what decoding raises for a header.

    >>> from tubelet.reading.source import open_source
    >>> with open_source("walk.mp4", Limits()) as src:
    ...     seen = outline_source(src, ReadJob(sampling=Sampling(num_frames=3)))
    >>> seen.width, seen.height, len(seen.times_s)
    (480, 270, 3)
    """
    if src.format in VIDEOS:
        from tubelet.reading.video.video import plan_video  # loads FFmpeg, which pictures can do without

        plan = plan_video(src, job.limits, job.sampling, job.hdr, job.background)
        src.file.seek(0)
        return Outline(plan.width, plan.height, tuple(plan.times_s), moves=True, duration_s=plan.duration_s)
    with decoding(src):
        header = read_header(src, job.limits)
        if not job.animation or not is_animation(src.format, header):
            return Outline(*header.upright, (0.0,))
        if src.format == "AVIF":
            frames, exact = _frames_of_avif(header.frames, job.sampling)
            return Outline(*header.upright, (0.0,) * frames, exact, moves=True)
        starts, end, wanted = moving(src, job.limits, job.sampling, header)[:3]
        return Outline(*header.upright, tuple(starts[i] for i in wanted), moves=True, duration_s=end)


def _frames_of_avif(frames: int, sampling: Sampling) -> tuple[int, bool]:
    """How many of its frames are taken whatever their durations, and whether never more."""
    if sampling.times_s is not None:
        return len(sampling.times_s), True
    if sampling == Sampling() or (sampling.num_frames is not None and frames <= sampling.num_frames):
        return frames, True
    return 1, False
