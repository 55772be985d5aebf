"""What a clip does between the frames taken out of it, by its codec and by its pixels: plain values and fields."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from tubelet.reading.clip import Clip
from tubelet.shapes import Float


@dataclass(frozen=True, eq=False)
class CodecSignals:
    """Fields of F frames taken out of one clip, each summed up since the frame taken before it (the first: since the
    start of the clip). On cells of the upright picture.

        >>> from tubelet.reading.codec.decode import codec_signals
        >>> seen = codec_signals("walk.mp4", fps=2.0)
        >>> seen.signal, seen.error_levels.shape, seen.cuts.index(True), seen.times_s[6]
        ('vectors', (9, 34, 60), 6, 3.0)
    """

    signal: str  # how motion and error were found: vectors, blocks or difference
    codec: str  # FFmpeg's name of the decoder
    times_s: tuple[float, ...]  # true start of each frame
    pictures: tuple[str, ...]  # I, P, B or "?"
    frames: tuple[int, ...]  # shown since the frame taken before, this one included
    packet_bytes: tuple[int, ...]  # the size of those in the file
    keys: tuple[bool, ...]  # whether a key frame is among them
    cuts: tuple[bool, ...]  # whether a scene begins among them
    error_levels: Float[np.ndarray, "F h w"]  # of luma that neither staying nor moving explains, above coding noise
    motion_px: Float[np.ndarray, "F h w"]  # moved relative to the camera, which moves as the median does
    rows_px: tuple[float, ...]  # where cells begin and end in the upright picture, one number more than cells
    columns_px: tuple[float, ...]
    source: str = "?"  # the last three as in Clip
    complete: bool = True
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.times_s)

    def __repr__(self) -> str:
        f, h, w = self.error_levels.shape
        return f"CodecSignals({self.source!r}, {self.signal} of {self.codec}, {f} frames of {h} x {w} cells)"


_SIGNAL_FIELDS = tuple(
    f.name
    for f in fields(CodecSignals)
    if f.name not in ("error_levels", "motion_px", "times_s", "source", "complete", "notes")
)  # the last four are those of the clip


def signal_fields(signals: CodecSignals) -> dict[str, Any]:
    """Everything of CodecSignals but its fields of numbers and what the clip that travels with it says too."""
    return {name: getattr(signals, name) for name in _SIGNAL_FIELDS}


def pack_maps(signals: CodecSignals) -> np.ndarray:
    """Both fields as the bytes of one array of the shape that frames have, (2, F x h, w, 4)."""
    maps = np.stack([signals.error_levels, signals.motion_px]).astype(np.float32)
    return maps.reshape(2, -1, maps.shape[3], 1).view(np.uint8)


def signals_from(values: dict[str, Any], maps: np.ndarray, clip: Clip) -> CodecSignals:
    """The CodecSignals of the fields that were sent, of a clip. Raises: TypeError, ValueError for anything else."""
    if set(values) != set(_SIGNAL_FIELDS):
        raise ValueError("the fields are not those of CodecSignals")
    rows, columns = (tuple(float(e) for e in values[name]) for name in ("rows_px", "columns_px"))
    shape = (2, len(clip), len(rows) - 1, len(columns) - 1)
    error, motion = maps.view(np.float32).reshape(shape)
    if not (np.isfinite(error).all() and np.isfinite(motion).all()):
        raise ValueError("fields that are not finite")
    return CodecSignals(
        str(values["signal"]),
        str(values["codec"]),
        clip.times_s,
        tuple(str(p) for p in values["pictures"]),
        tuple(int(n) for n in values["frames"]),
        tuple(int(n) for n in values["packet_bytes"]),
        tuple(bool(k) for k in values["keys"]),
        tuple(bool(c) for c in values["cuts"]),
        error,
        motion,
        rows,
        columns,
        clip.source,
        clip.complete,
        clip.notes,
    )
