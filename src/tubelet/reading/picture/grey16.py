"""Pictures whose samples are numbers of 16 bits rather than light: maps of depth as PNG."""

import numpy as np

from tubelet.errors import DecodeError, UnsupportedFormat
from tubelet.reading.clip import Allocate, new_frames
from tubelet.reading.isolated.pool import ask_child
from tubelet.reading.isolated.wire import Reply, map_frames, shape_of
from tubelet.reading.job import ReadJob
from tubelet.reading.limits import Limits
from tubelet.reading.picture.decode import decoding
from tubelet.reading.picture.header import read_header
from tubelet.reading.picture.loading import load_first
from tubelet.reading.source import Source
from tubelet.shapes import Shaped

PLANES = 2  # bytes of a sample, the low one first


def decode_grey16(
    src: Source, limits: Limits, *, allocate: Allocate = new_frames
) -> Shaped[np.ndarray, "1 H W planes"]:
    """The samples of a grey PNG of 16 bits as they are stored, each as its low and its high byte.

    Raises: UnsupportedFormat for any other picture, DecodeError (damaged, cut short), LimitError.
    """
    with decoding(src):
        if src.format != "PNG":
            raise UnsupportedFormat("a map is a PNG", expected="PNG", got=src.format)
        header = read_header(src, limits)
        loaded = load_first(src, limits, header, "clip", [], None)
        if not loaded.picture.mode.startswith("I;16"):
            raise UnsupportedFormat("a map has grey samples of 16 bits", expected="I;16", got=loaded.picture.mode)
        if not loaded.complete:
            raise DecodeError("the PNG's picture data end early")
        out = allocate((1, header.height, header.width, PLANES))
        out[0] = np.asarray(loaded.picture).astype("<u2")[..., None].view(np.uint8)
    return out


def isolated_grey16(src: Source, limits: Limits) -> Shaped[np.ndarray, "H W"]:
    """The samples as uint16, decoded in a child process. Raises: as `decode_grey16` and `ask_child`."""

    def made_of(reply: Reply) -> np.ndarray:
        shape = shape_of(reply.values["shape"], PLANES)
        limits.check_clip(shape[0], shape[2], shape[1])
        if not reply.files:
            raise ValueError("no samples were sent")
        return map_frames(reply.files[0], shape)[0].view("<u2")[..., 0]

    return ask_child({"kind": "grey16"}, src, ReadJob(limits), made_of)
