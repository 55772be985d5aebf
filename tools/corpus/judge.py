"""One file, read by tubelet in several ways and by its peer, and a verdict in words.

Read as a newcomer reads: no options, so of a clip 2 frames a second and at most 64.

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
from tubelet.reading.read import probe
from tubelet.reading.sniff import HEAD_BYTES, PICTURES, sniff

OTHER = "other formats"
LEVELS = 2  # of rounding: 16 bits to 8, colour profiles, alpha


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
    ours = _ours(path, found, isolate="never")
    _same("isolated", ours, _ours(path, found, isolate="always"), found)
    moves = found.input_class not in PICTURES and found.input_class != OTHER
    if moves:
        _same("with one thread", ours, _ours(path, found, isolate="never", workers=1), found)
    _probed(path, ours, found)
    clip = ours if isinstance(ours, tubelet.Clip) else None
    try:
        theirs = peers.clip(path, clip.times_s if clip else ()) if moves else peers.picture(path)
    except Exception as error:  # noqa: BLE001  a peer may raise anything: that it did is the result
        theirs = error
    if clip is None or isinstance(theirs, Exception):
        words = {(True, True): "refused by both", (True, False): "refused by us only"}
        found.verdict = words.get((clip is None, isinstance(theirs, Exception)), "read by us only")
        found.reason = _told(ours if clip is None else theirs)
        if isinstance(theirs, peers.PeerClip):
            found.reason += f"; PyAV: {len(theirs.times_s)} frames, {'' if theirs.damaged else 'no '}damage"
    elif isinstance(theirs, peers.PeerClip):
        if any(note.startswith("high dynamic range") for note in clip.notes):  # PyAV shows code values as they are
            clip = tubelet.read(path, isolate="never", hdr="clip")[0]
        found.reason = _clips_differ(clip, theirs, found)
    else:
        found.reason = _pictures_differ(clip, theirs, path)
    found.verdict = found.verdict or ("different" if found.reason else "equal")
    found.reason, *found.faults = (
        x.replace(f"{path}: ", "").replace(str(path), name) for x in (found.reason, *found.faults)
    )
    return found


def _told(error: object) -> str:
    return f"{type(error).__name__}: {error}"[:300]


def _ours(path: Path, found: Verdict, **options: Any) -> "tubelet.Clip | BaseException":
    try:
        return tubelet.read(path, **options)[0]
    except TubeletError as error:
        return error
    except Exception as error:  # noqa: BLE001  what is looked for
        found.faults.append(f"a foreign exception leaves read ({options}): {_told(error)}")
        return error


def _same(how: str, one: Any, other: Any, found: Verdict) -> None:
    """Read one way and another: the same clip, or the same error."""
    if isinstance(one, tubelet.Clip) and isinstance(other, tubelet.Clip):
        for name in ("times_s", "complete", "frames_expected", "duration_s", "notes"):
            if getattr(one, name) != getattr(other, name):
                found.faults.append(f"{how}, {name} differs: {getattr(one, name)} and {getattr(other, name)}")
        if not np.array_equal(one.frames, other.frames):
            found.faults.append(f"{how}, pixels differ")
    elif type(one) is not type(other) or str(one) != str(other):
        said = (x if isinstance(x, tubelet.Clip) else _told(x) for x in (one, other))
        found.faults.append("{}, it is another thing: {} and {}".format(how, *said))


def _probed(path: Path, ours: Any, found: Verdict) -> None:
    """A header that `probe` refuses is one `read` refuses, for the same reason; sizes agree."""
    try:
        info = probe(path)
    except TubeletError as error:
        if isinstance(ours, tubelet.Clip):
            found.faults.append(f"probe refuses what read reads: {error}")
        elif type(error) is not type(ours):
            found.faults.append(f"probe raises {_told(error)}, read {_told(ours)}")
        return
    except Exception as error:  # noqa: BLE001  what is looked for
        found.faults.append(f"a foreign exception leaves probe: {_told(error)}")
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
    """Empty when every frame of ours is PyAV's at that time."""
    if ours.complete and theirs.damaged:
        found.faults.append("complete, though PyAV met damage")
    cut = any(note.startswith("cut or damaged") for note in ours.notes)  # PyAV does not say that a file is cut
    if not ours.complete and not theirs.damaged and not cut:
        found.faults.append(f"incomplete, though PyAV met no damage: {'; '.join(ours.notes)}")
    for place, time_s in enumerate(ours.times_s):
        if time_s not in theirs.kept:
            return f"PyAV shows nothing at {time_s:.3f} s"
        nearest = min(theirs.times_s, key=lambda t: abs(t - time_s))
        if abs(nearest - time_s) > 1e-3:
            return f"a frame at {time_s:.3f} s, where PyAV's nearest is at {nearest:.3f} s"
        if reason := _apart(ours.frames[place], theirs.kept[time_s]):
            return f"frame at {time_s:.3f} s: {reason}; complete={ours.complete}; notes: {'; '.join(ours.notes)}"
    return ""


def _apart(ours: np.ndarray, theirs: np.ndarray) -> str:
    if ours.shape != theirs.shape:
        return f"{ours.shape[1]} x {ours.shape[0]}, the peer's {theirs.shape[1]} x {theirs.shape[0]}"
    difference = np.abs(ours.astype(np.int16) - theirs)
    if difference.max() <= LEVELS:
        return ""
    share = float((difference.max(axis=2) > LEVELS).mean())
    return f"{share:.1%} of pixels differ, by up to {difference.max()} levels"
