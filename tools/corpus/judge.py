"""One file, read by tubelet in three ways and by its peer, and a verdict in words.

equal               both read it, and no pixel differs by more than 2 levels (rounding)
different           both read it, and one does
refused by both, refused by us only, read by us only
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tools.corpus import peers

import tubelet
from tubelet.errors import TubeletError, UnsupportedFormat
from tubelet.read import probe
from tubelet.read.sniff import HEAD_BYTES, PICTURES, sniff

OTHER = "other formats"
LEVELS = 2  # of rounding: 16 bits to 8, colour profiles, alpha
FRAMES = 8  # of a clip


@dataclass
class Verdict:
    """What became of one file. Plain values only, for JSON."""

    file: str
    input_class: str  # the format its first bytes prove, or OTHER
    verdict: str = ""
    reason: str = ""  # why it is not equal
    faults: list[str] = field(default_factory=list)  # what is wrong whatever the peer says

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def class_of(path: Path) -> str:
    with path.open("rb") as file:
        try:
            return sniff(file.read(HEAD_BYTES))
        except UnsupportedFormat:
            return OTHER


def judge(path: Path, name: str) -> Verdict:
    """The verdict on one file; `name` is what it is called in the result."""
    found = Verdict(name, class_of(path))
    ours = _ours(path, "never", found)
    _same(ours, _ours(path, "always", found), found)
    _probed(path, ours, found)
    moves = found.input_class not in PICTURES and found.input_class != OTHER
    clip = ours if isinstance(ours, tubelet.Clip) else None
    try:
        theirs = peers.clip(path, clip.times_s if clip else ()) if moves else peers.picture(path)
    except Exception as error:  # noqa: BLE001  a peer may raise anything: that it did is the result
        theirs = error
    if clip is None or isinstance(theirs, Exception):
        words = {(True, True): "refused by both", (True, False): "refused by us only"}
        found.verdict = words.get((clip is None, isinstance(theirs, Exception)), "read by us only")
        told = ours if clip is None else theirs
        found.reason = f"{type(told).__name__}: {told}".replace(str(path), name)[:300]
    elif isinstance(theirs, peers.PeerClip):
        found.reason = _clips_differ(clip, theirs, found)
    else:
        found.reason = _pictures_differ(clip, theirs, path)
    found.verdict = found.verdict or ("different" if found.reason else "equal")
    return found


def _ours(path: Path, isolate: Any, found: Verdict) -> "tubelet.Clip | BaseException":
    try:
        return tubelet.read(path, num_frames=FRAMES, isolate=isolate)[0]
    except TubeletError as error:
        return error
    except Exception as error:  # noqa: BLE001  what is looked for
        found.faults.append(f"a foreign exception leaves read (isolate={isolate}): {type(error).__name__}: {error}")
        return error


def _same(one: Any, other: Any, found: Verdict) -> None:
    """In this process and in a child: the same clip, or the same error."""
    if isinstance(one, tubelet.Clip) and isinstance(other, tubelet.Clip):
        for field_name in ("times_s", "complete", "frames_expected", "duration_s", "notes"):
            if getattr(one, field_name) != getattr(other, field_name):
                values = f"{getattr(one, field_name)} and {getattr(other, field_name)}"
                found.faults.append(f"isolated, {field_name} differs: {values}")
        if not np.array_equal(one.frames, other.frames):
            found.faults.append("isolated, pixels differ")
    elif type(one) is not type(other) or str(one) != str(other):
        said = (x if isinstance(x, tubelet.Clip) else f"{type(x).__name__}: {x}" for x in (one, other))
        found.faults.append("isolated it is another thing: {} and {}".format(*said))


def _probed(path: Path, ours: Any, found: Verdict) -> None:
    """A header that `probe` refuses is one `read` refuses, for the same reason; sizes agree."""
    try:
        info = probe(path)
    except TubeletError as error:
        if isinstance(ours, tubelet.Clip):
            found.faults.append(f"probe refuses what read reads: {error}")
        elif type(error) is not type(ours):
            found.faults.append(f"probe raises {type(error).__name__} ({error}), read {type(ours).__name__} ({ours})")
        return
    except Exception as error:  # noqa: BLE001  what is looked for
        found.faults.append(f"a foreign exception leaves probe: {type(error).__name__}: {error}")
        return
    if isinstance(ours, tubelet.Clip) and (info.width, info.height) != (ours.width, ours.height):
        found.faults.append(f"probe says {info.width} x {info.height}, read {ours.width} x {ours.height}")


def _pictures_differ(ours: "tubelet.Clip", theirs: np.ndarray, path: Path) -> str:
    """Empty when equal; else how far apart, and which less careful use of Pillow gives our pixels, if one does."""
    reason = _apart(ours.frames[0], theirs)
    if not reason:
        return ""
    for words, options in (
        ("without its colour profile", {"profile": False}),
        ("as stored, not turned", {"turn": False}),
        ("as stored, and without its colour profile", {"turn": False, "profile": False}),
    ):
        if not _apart(ours.frames[0], peers.picture(path, **options)):
            return f"{reason}; equal to Pillow's {words}"
    return f"{reason}; notes: {'; '.join(ours.notes) or 'none'}"


def _clips_differ(ours: "tubelet.Clip", theirs: "peers.PeerClip", found: Verdict) -> str:
    """Empty when every frame of ours is PyAV's at that time, and as many were there to take."""
    if ours.complete and theirs.damaged:
        found.faults.append("complete, though PyAV met damage")
    if not ours.complete and not theirs.damaged:
        found.faults.append(f"incomplete, though PyAV met no damage: {'; '.join(ours.notes)}")
    for place, time_s in enumerate(ours.times_s):
        if time_s not in theirs.kept:
            return f"PyAV shows nothing at {time_s:.3f} s"
        nearest = min(theirs.times_s, key=lambda t: abs(t - time_s))
        if abs(nearest - time_s) > 1e-3:
            return f"a frame at {time_s:.3f} s, where PyAV's nearest is at {nearest:.3f} s"
        if reason := _apart(ours.frames[place], theirs.kept[time_s]):
            return f"frame at {time_s:.3f} s: {reason}; complete={ours.complete}; notes: {'; '.join(ours.notes)}"
    wanted = min(FRAMES, len(theirs.times_s))
    if ours.complete and len(ours) < wanted and len(theirs.times_s) <= FRAMES:
        return f"{len(ours)} frames of {len(theirs.times_s)}"
    return ""


def _apart(ours: np.ndarray, theirs: np.ndarray) -> str:
    if ours.shape != theirs.shape:
        return f"{ours.shape[1]} x {ours.shape[0]}, the peer's {theirs.shape[1]} x {theirs.shape[0]}"
    difference = np.abs(ours.astype(np.int16) - theirs)
    if difference.max() <= LEVELS:
        return ""
    share = float((difference.max(axis=2) > LEVELS).mean())
    return f"{share:.1%} of pixels differ, by up to {difference.max()} levels"
