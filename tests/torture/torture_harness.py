"""What a reader may do with a bad input, and how it is judged.

A case is a pure function: (kind, seed) -> bytes and what must come of them. A failure prints kind and seed, which is
all that is needed to make it again:  `from torture_images import make; make("cut_png", 17)`

    must = "error"    an error of ours, for inputs that cannot be read
    must = "clip"     a Clip, equal to `pixels` within `within` grey levels where `pixels` is given
    must = "either"   an error of ours, or a Clip; for damage that may have missed the pixels

In every case: no foreign exception, no exception that our own last resort had to translate, no hang, no dead process.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tubelet.errors import DecodeError, TubeletError, WorkerDied
from tubelet.reading.clip import Clip
from tubelet.reading.job import ReadJob
from tubelet.reading.limits import MIB, Limits
from tubelet.reading.outline import Outline, outline_source
from tubelet.reading.read import probe, read
from tubelet.reading.sampling import Sampling
from tubelet.reading.source import open_source

DEADLINE_S = 5.0
LIMITS = Limits(deadline_s=DEADLINE_S, max_memory_bytes=1024 * MIB, max_pixels=4_000_000)


@dataclass(frozen=True)
class Made:
    """One bad (or merely unusual) input. errors: which classes the error may be of; () any of ours."""

    data: bytes
    must: Literal["error", "clip", "either"]
    pixels: np.ndarray | None = None
    within: int = 0
    errors: tuple[type[TubeletError], ...] = ()
    note: str | None = None  # a word that one of the Clip's notes must have


@dataclass(frozen=True)
class Died:
    """What a target that runs in a process of its own can also do: end by a signal, or not end."""

    how: str


def judge(made: Made, outcome: Any) -> str | None:
    """None when the outcome is allowed, else what is wrong with it."""
    if isinstance(outcome, Died):
        return f"the process {outcome.how}"
    if isinstance(outcome, WorkerDied):
        return f"the decoding process did not survive it: {outcome}"
    if isinstance(outcome, TubeletError):
        return _judge_error(made, outcome)
    if isinstance(outcome, BaseException):
        return f"a foreign exception: {type(outcome).__name__}: {str(outcome)[:300]}"
    if not isinstance(outcome, Clip):
        return f"neither an error nor a Clip: {type(outcome).__name__}"
    return _judge_clip(made, outcome)


def _judge_error(made: Made, error: TubeletError) -> str | None:
    if "not known" in error.message:
        return f"an exception that no table lists: {error} ({error.__cause__})"
    if "0x" in str(error) or "object at" in str(error):
        return f"a foreign message leaks: {error}"
    if error.source is None:
        return f"the error does not name its source: {error}"
    if made.must == "clip":
        return f"a readable input was refused: {type(error).__name__}: {error} ({error.__cause__})"
    if made.errors and not isinstance(error, made.errors):
        return f"{type(error).__name__} instead of {' or '.join(e.__name__ for e in made.errors)}: {error}"
    return None


def _judge_clip(made: Made, clip: Clip) -> str | None:
    if made.must == "error":
        return f"unreadable, and yet: {clip}" if clip.complete else None
    if made.note is not None and not any(made.note in note for note in clip.notes):
        return f"no note about {made.note!r}: {clip.notes}"
    if made.pixels is None:
        return None
    if clip.frames.shape[1:] != made.pixels.shape:
        return f"{clip.frames.shape[1:]} instead of {made.pixels.shape}"
    off = int(np.abs(clip.frames[0].astype(int) - made.pixels.astype(int)).max())
    return f"pixels are off by {off} of 255, allowed are {made.within}" if off > made.within else None


def disagreement(data: bytes, found: Any) -> str | None:
    """What `probe` or a plan says otherwise than reading every frame, which gave `found`; None where they agree.

    Nothing of a picture's pixels or a clip's packets is decoded for them: damage in there, and a size that changes on
    the way, are a DecodeError of reading alone.
    """
    job = ReadJob(LIMITS, Sampling(num_frames=8_000))

    def outlined(data: bytes) -> Outline:
        with open_source(data, LIMITS) as source:
            return outline_source(source, job)

    info, plan = attempt(lambda data: probe(data, limits=LIMITS), data), attempt(outlined, data)
    if not isinstance(found, Clip):
        others = [type(x) for x in (info, plan) if isinstance(x, BaseException)] or [DecodeError]
        return None if {*others} == {type(found)} else f"probe {info!r}, plan {plan!r}, reading {found!r}"
    if isinstance(info, BaseException) or isinstance(plan, BaseException):
        return f"read, though probe gives {info!r} and a plan {plan!r}"
    sizes = {(x.width, x.height) for x in (info, plan, found)}
    if len(sizes) > 1:
        return f"other sizes: {sizes}"
    if not found.is_video:
        return None
    if {info.duration_s, plan.duration_s} != {found.duration_s}:
        return f"other lengths: probe {info.duration_s}, plan {plan.duration_s}, reading {found.duration_s}"
    times = plan.times_s == found.times_s if found.complete else {*found.times_s} <= {*plan.times_s}
    if not times or info.frames < len(found) or (found.complete and info.frames != len({*found.times_s})):
        return f"other frames: probe {info.frames}, plan {len(plan.times_s)}, reading {len(found)}"
    return None


def tubelet_target(data: bytes) -> Any:
    """The library's own answer, from its decoding process."""
    return read(data, limits=LIMITS, isolate="always", on_error="skip", workers=1)[0]


def attempt(target: Callable[[bytes], Any], data: bytes) -> Any:
    """What a target gives or raises, in this process."""
    try:
        return target(data)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001
        return error


def attempt_outside(script: str, data: bytes, deadline_s: float = DEADLINE_S) -> Any:
    """What becomes of a Python script that gets the data on its standard input: Died, or a RuntimeError, or None."""
    try:
        done = subprocess.run([sys.executable, "-c", script], input=data, timeout=deadline_s, capture_output=True)
    except subprocess.TimeoutExpired:
        return Died(f"did not end within {deadline_s:g} s")
    if done.returncode < 0:
        return Died(f"was ended by signal {-done.returncode}")
    return RuntimeError(done.stderr.decode(errors="replace")[-200:]) if done.returncode else None


def failures(
    make: Callable[[str, int], Made],
    cases: list[tuple[str, int]],
    target: Callable[[bytes], Any] = tubelet_target,
    *,
    agree: bool = False,
) -> list[str]:
    """One line for each case that is not allowed: its kind, its seed, and why. agree: `disagreement` counts too."""
    lines = []
    for kind, seed in cases:
        made = make(kind, seed)
        outcome = attempt(target, made.data)
        wrong = judge(made, outcome) or (disagreement(made.data, outcome) if agree else None)
        if wrong is not None:
            lines.append(f"{kind}, {seed}: {wrong}")
    return lines


def spread(kinds: list[str], count: int) -> list[tuple[str, int]]:
    """`count` cases over all kinds, each kind with its own seeds 0, 1, 2, ..."""
    return [(kinds[i % len(kinds)], i // len(kinds)) for i in range(count)]
