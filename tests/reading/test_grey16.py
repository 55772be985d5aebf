"""Maps of 16-bit samples: every value comes back, from here and from a child process, and nothing else is a map."""

import io

import numpy as np
import pytest
from PIL import Image

from tubelet.errors import DecodeError, LimitError, UnsupportedFormat, WorkerDied
from tubelet.reading.isolated.pool import DecodeChild
from tubelet.reading.isolated.wire import Reply
from tubelet.reading.limits import Limits
from tubelet.reading.picture.grey16 import decode_grey16, isolated_grey16
from tubelet.reading.source import open_source

SAMPLES = np.arange(65536, dtype=np.uint16).reshape(128, 512)


def stored(array: np.ndarray, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, kind)
    return out.getvalue()


def test_every_value_comes_back():
    with open_source(stored(SAMPLES), Limits()) as src:
        planes = decode_grey16(src, Limits())
    assert planes.shape == (1, 128, 512, 2)
    assert np.array_equal(planes[0, ..., 0] + 256 * planes[0, ..., 1].astype(int), SAMPLES)
    with open_source(stored(SAMPLES), Limits()) as src:
        assert np.array_equal(isolated_grey16(src, Limits()), SAMPLES)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (stored(np.zeros((4, 4), np.uint8)), UnsupportedFormat),
        (stored(np.zeros((4, 4, 3), np.uint8)), UnsupportedFormat),
        (stored(SAMPLES, "TIFF"), UnsupportedFormat),
        (stored(SAMPLES)[:-400], DecodeError),
        (stored(SAMPLES)[:60], DecodeError),
        (stored(np.zeros((200, 600), np.uint16)), LimitError),
    ],
)
def test_what_is_no_map_is_refused(data: bytes, error: type[Exception]):
    limits = Limits(max_pixels=128 * 512)
    for decode in (decode_grey16, isolated_grey16):
        with open_source(data, limits) as src, pytest.raises(error):
            decode(src, limits)


@pytest.mark.parametrize("shape", [[1, 128, 512, 3], [1, 128, 511, 2], [1, 128], "wide", None])
def test_a_child_that_lies_is_not_believed(shape: object, monkeypatch: pytest.MonkeyPatch):
    real = DecodeChild._exchange

    def lies(*args: object) -> Reply:
        reply = real(*args)  # pyright: ignore
        return Reply(reply.values | {"shape": shape}, reply.files)

    monkeypatch.setattr(DecodeChild, "_exchange", lies)
    with open_source(stored(SAMPLES), Limits()) as src, pytest.raises(WorkerDied, match="makes no sense"):
        isolated_grey16(src, Limits())
