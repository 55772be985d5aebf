"""What a plan is made of: sizes and numbers of frames, given or taken from the headers of files."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from tubelet.errors import InputError, TubeletError
from tubelet.reading.job import ReadJob
from tubelet.reading.limits import Limits
from tubelet.reading.outline import outline_source
from tubelet.reading.sampling import Sampling
from tubelet.reading.source import BinaryFile, open_source


@dataclass(frozen=True)
class Input:
    """One picture or clip by its upright size in pixels and the frames taken out of it.

    duration_s: of a clip, where known: then frames stand for frames a second.
    """

    width: int
    height: int
    frames: int = 1
    name: str = ""
    duration_s: float | None = None


def inputs_of_files(
    files: Sequence[str | os.PathLike[str] | BinaryFile],
    *,
    fps: float | None = None,
    num_frames: int | None = None,
    times_s: Sequence[float] | None = None,
    animation: bool = False,
    limits: Limits = Limits(),  # noqa: B008
) -> list[Input]:
    """Inputs of files, from headers and the list of a video's packets: the frames `read` would take, none decoded.

    animation: animated pictures count as clips. Raises what `read` raises for a header, naming the item; InputError for
    an animated AVIF whose frames are to be taken by time: only its decoded frames have durations.

        >>> inputs_of_files(["walk.mp4"], num_frames=8)
        [Input(width=480, height=270, frames=8, name='walk.mp4', duration_s=4.5)]
    """
    job = ReadJob(limits, Sampling(fps, num_frames, None if times_s is None else tuple(times_s)), animation=animation)
    found: list[Input] = []
    for i, file in enumerate(files):
        name = os.fsdecode(file) if isinstance(file, (str, os.PathLike)) else str(getattr(file, "name", "<file>"))
        try:
            with open_source(file, limits) as src:
                seen = outline_source(src, job)
            if not seen.exact:
                raise InputError("an animated AVIF says only when decoded which frames are shown at which time")
            found.append(Input(seen.width, seen.height, len(seen.times_s), name, seen.duration_s))
        except TubeletError as e:
            raise e.placed(item=i, source=name) from None
    return found
