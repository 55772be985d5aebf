"""What a clip does between the frames taken out of it, by its codec and by its pixels: plain values and fields."""

from dataclasses import dataclass

import numpy as np

from tubelet.shapes import Float


@dataclass(frozen=True, eq=False)
class CodecSignals:
    """Fields of F frames taken out of one clip, each summed up since the frame taken before it (the first: since the
    start of the clip). On cells of the upright picture.

    signal: how motion and error were found, "vectors", "blocks" or "difference". codec: FFmpeg's name of the decoder.
    times_s: true start of each frame. pictures: I, P, B or "?". frames: shown since the frame taken before, this one
    included. packet_bytes: their size in the file. keys, cuts: whether a key frame, or the beginning of a scene, is
    among them. error_levels: the levels of luma that neither staying nor moving explains, above coding noise.
    motion_px: pixels moved relative to the camera, which moves as the median does. rows_px, columns_px: where cells
    begin and end in the upright picture, one number more than there are cells.

        >>> seen = tubelet.codec_signals("walk.mp4", fps=2.0)
        >>> seen.signal, seen.error_levels.shape, seen.cuts.index(True), seen.times_s[6]
        ('vectors', (9, 34, 60), 6, 3.0)
    """

    signal: str
    codec: str
    times_s: tuple[float, ...]
    pictures: tuple[str, ...]
    frames: tuple[int, ...]
    packet_bytes: tuple[int, ...]
    keys: tuple[bool, ...]
    cuts: tuple[bool, ...]
    error_levels: Float[np.ndarray, "F h w"]
    motion_px: Float[np.ndarray, "F h w"]
    rows_px: tuple[float, ...]
    columns_px: tuple[float, ...]
    source: str = "?"
    complete: bool = True
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.times_s)

    def __repr__(self) -> str:
        f, h, w = self.error_levels.shape
        return f"CodecSignals({self.source!r}, {self.signal} of {self.codec}, {f} frames of {h} x {w} cells)"
