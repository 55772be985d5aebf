"""Inputs of any number as packs of bounded size."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tubelet.errors import TubeletError

if TYPE_CHECKING:
    from tubelet.pixels.recipe import PixelRecipe
    from tubelet.reading.sampling import Sampling


CHUNK_ROWS = 32_768  # patches that are decoded and encoded together; memory grows with it, results do not change


CHUNK_FILES = 256


BLIND_FILES = 16  # files in a chunk whose headers may not be read in this process


def chunks(
    files: Sequence[str], recipe: "PixelRecipe", sampling: "Sampling", animation: bool, isolate: str
) -> Iterator[range]:
    """Consecutive files that are worked on together, as ranges: about CHUNK_ROWS patches by what their headers say."""
    first, rows = 0, 0
    for i, file in enumerate(files):
        more = CHUNK_ROWS // BLIND_FILES if isolate == "always" else expected_rows(file, recipe, sampling, animation)
        if i > first and (rows + more > CHUNK_ROWS or i - first >= CHUNK_FILES):
            yield range(first, i)
            first, rows = i, 0
        rows += more
    yield range(first, len(files))


def expected_rows(file: str, recipe: "PixelRecipe", sampling: "Sampling", animation: bool) -> int:
    """Patches a file will have, from its header alone; 0 where that fails, because reading it will tell why."""
    from tubelet.pixels.resize import grid_of
    from tubelet.reading.picture.image import PictureInfo
    from tubelet.reading.read import probe

    try:
        info = probe(file)
        if isinstance(info, PictureInfo):
            frames = info.frames if animation else 1
        else:
            frames = len(sampling.times(0.0, info.duration_s or 0.0))
        return grid_of(info.height, info.width, max(frames, 1), recipe).rows
    except TubeletError:
        return 0
