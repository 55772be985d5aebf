"""One opened input -> one Clip. The same function runs in the caller's process and in the decoding child."""

from dataclasses import asdict, dataclass, field
from typing import Any

from tubelet.errors import InputError
from tubelet.reading.clip import Allocate, Clip, new_frames
from tubelet.reading.hdr import MODES, HdrMode
from tubelet.reading.limits import Limits
from tubelet.reading.picture.animation import decode_animation
from tubelet.reading.picture.image import WHITE, decode_image
from tubelet.reading.sampling import Sampling
from tubelet.reading.source import VIDEOS, Source


@dataclass(frozen=True)
class ReadJob:
    """How an input is to be read. Plain values only, so that it can be sent to another process."""

    limits: Limits = field(default_factory=Limits)
    sampling: Sampling = field(default_factory=Sampling)  # which frames of a video
    background: tuple[int, int, int] = WHITE  # what transparent parts are laid on
    animation: bool = False  # pictures that move are read as clips
    workers: int = 1  # threads that decode one video
    hdr: HdrMode = "tonemap"  # what becomes of PQ and HLG

    def __post_init__(self) -> None:
        if len(self.background) != 3 or not all(0 <= level <= 255 for level in self.background):
            raise InputError(f"a background is three levels of 0 to 255, got {self.background}", got=self.background)
        if self.hdr not in MODES:
            raise InputError(f"hdr is {' or '.join(MODES)}, not {self.hdr!r}", expected=MODES, got=self.hdr)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ReadJob":
        """The job that `as_dict` described, after a way through JSON. Unknown fields are a TypeError."""
        sampling = dict(values.pop("sampling"))
        if sampling.get("times_s") is not None:
            sampling["times_s"] = tuple(sampling["times_s"])
        background = tuple(values.pop("background"))
        return cls(Limits(**values.pop("limits")), Sampling(**sampling), background, **values)


def decode_source(src: Source, job: ReadJob, allocate: Allocate = new_frames) -> Clip:
    """The Clip of one input, by its format. Raises: what the picture and video decoders raise, with the source."""
    if src.format in VIDEOS:
        from tubelet.reading.video.video import read_video  # loads FFmpeg, which reading pictures can do without

        return read_video(
            src,
            job.limits,
            job.sampling,
            hdr=job.hdr,
            background=job.background,
            workers=job.workers,
            allocate=allocate,
        )
    if job.animation:
        return decode_animation(src, job.limits, job.sampling, job.background, hdr=job.hdr, allocate=allocate)
    return decode_image(src, job.limits, job.background, hdr=job.hdr, allocate=allocate)
