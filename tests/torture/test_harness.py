"""The harness must fail on readers that are known to be bad. If it passed them, its praise would be worth nothing."""

import io

import numpy as np
import pytest
from PIL import Image
from tests.torture.torture_harness import Died, Made, attempt, attempt_outside, failures, judge, spread, tubelet_target
from tests.torture.torture_images import KINDS, make

from tubelet.errors import DecodeError, LimitError, WorkerDied
from tubelet.reading.clip import Clip

GREY = np.full((2, 3, 3), 7, np.uint8)


def clip(pixels: np.ndarray = GREY, complete: bool = True) -> Clip:
    return Clip(pixels[None], (0.0,), source="s", complete=complete)


def plain_pillow(data: bytes) -> Clip:
    """What most code does."""
    return Clip(np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))[None], (0.0,), source="pillow")


def always_grey(data: bytes) -> Clip:
    """A reader that never complains."""
    return clip()


def wrong_on(target: object, prefix: str, seeds: int = 6) -> int:
    kinds = [kind for kind in KINDS if kind.startswith(prefix)]
    return len(failures(make, spread(kinds, seeds * len(kinds)), target))


@pytest.mark.parametrize("prefix", ["cut_", "alien_", "lie_", "side_", "turn_", "clear_", "deep_", "moving_", "same_"])
def test_a_reader_that_never_complains_is_caught(prefix: str):
    kinds = [kind for kind in KINDS if kind.startswith(prefix)]
    assert wrong_on(always_grey, prefix, 2) == 2 * len(kinds)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("prefix", ["alien_", "lie_", "side_long", "turn_", "clear_", "deep_png", "deep_refused"])
def test_plain_pillow_is_caught(prefix: str):
    assert wrong_on(plain_pillow, prefix) > 0
    assert wrong_on(tubelet_target, prefix, 1) == 0


def test_plain_pillow_accepts_a_wrong_checksum_and_we_do_not():
    data = bytearray(make("same_pixels", 0).data)
    buffer = io.BytesIO()
    Image.fromarray(np.arange(300, dtype=np.uint8).reshape(10, 10, 3)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[-13] ^= 1  # the last byte of the IDAT chunk's checksum
    made = Made(bytes(data), "error", errors=(DecodeError,))
    assert judge(made, attempt(plain_pillow, made.data)) is not None
    assert judge(made, attempt(tubelet_target, made.data)) is None


def test_death_and_hanging_are_caught():
    killed = attempt_outside("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", b"")
    hung = attempt_outside("import time; time.sleep(60)", b"", deadline_s=0.3)
    assert isinstance(killed, Died)
    assert isinstance(hung, Died)
    for outcome in (killed, hung, WorkerDied("late", source="s")):
        assert judge(Made(b"", "either"), outcome) is not None


@pytest.mark.slow
def test_a_decoder_that_crashes_on_a_damaged_png_is_caught():
    """torchvision 0.29.2 does; a later one may have been repaired, but then it must refuse or decode."""
    script = (
        "import sys, torch; from torchvision.io import decode_png; "
        "decode_png(torch.frombuffer(bytearray(sys.stdin.buffer.read()), dtype=torch.uint8))"
    )
    verdicts = [judge(m, attempt_outside(script, m.data, 60.0)) for m in (make("flip_png", seed) for seed in range(3))]
    assert any(verdict is not None for verdict in verdicts)


@pytest.mark.parametrize(
    ("made", "outcome"),
    [
        (Made(b"", "error"), clip()),
        (Made(b"", "clip"), DecodeError("no", source="s")),
        (Made(b"", "clip", pixels=GREY + 1), clip()),
        (Made(b"", "clip", pixels=GREY[:1]), clip()),
        (Made(b"", "clip", note="composited"), clip()),
        (Made(b"", "error", errors=(LimitError,)), DecodeError("no", source="s")),
        (Made(b"", "either"), KeyError("x")),
        (Made(b"", "either"), MemoryError()),
        (Made(b"", "either"), None),
        (Made(b"", "either"), DecodeError("cannot identify <_io.BytesIO object at 0x7f39143ed8a0>", source="s")),
        (Made(b"", "either"), DecodeError("without a name")),
        (Made(b"", "either"), DecodeError("the decoder failed in a way that is not known", source="s")),
    ],
)
def test_what_is_not_allowed(made: Made, outcome: object):
    assert judge(made, outcome) is not None


@pytest.mark.parametrize(
    ("made", "outcome"),
    [
        (Made(b"", "error"), DecodeError("no", source="s")),
        (Made(b"", "error"), clip(complete=False)),
        (Made(b"", "error", errors=(LimitError,)), LimitError("no", source="s")),
        (Made(b"", "clip", pixels=GREY), clip()),
        (Made(b"", "clip", pixels=GREY + 2, within=2), clip()),
        (Made(b"", "either"), clip()),
        (Made(b"", "either"), DecodeError("no", source="s")),
    ],
)
def test_what_is_allowed(made: Made, outcome: object):
    assert judge(made, outcome) is None
