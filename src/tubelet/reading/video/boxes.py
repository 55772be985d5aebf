"""The walk over a container: how long the file should be, how its pictures are turned, how long it lasts.

FFmpeg stops quietly where the bytes stop, so a cut file reads as a short clip. The containers know better: every box,
element or chunk starts with its length. A walk over the outermost of them, headers only, tells a whole file from a cut
one, whatever was cut:

    MP4   [ftyp 24][moov 3120][mdat 1512883 ......]            one box after another
    MKV   [EBML][Segment 1512000 [Info][Tracks][Cluster]...]    one level deeper
    AVI   [RIFF 1511992 ............][RIFF ....]

Order of bytes: MP4 and MKV big endian, AVI little. Cost: two small reads a box; no payload but `moov` is looked at.
"""

from tubelet.reading.limits import Limits
from tubelet.reading.sniff import Format
from tubelet.reading.video.avi import walk_avi
from tubelet.reading.video.mkv import walk_mkv
from tubelet.reading.video.mp4 import walk_mp4
from tubelet.reading.video.structure import Ahead, Bytes, Structure


def walk(data: Bytes, kind: Format, limits: Limits) -> Structure:
    """The structure of an MP4, MKV, WEBM or AVI file. Raises: LimitError for tables and counts above the ceilings."""
    found, data = Structure(), Ahead(data)
    if kind == "MP4":
        walk_mp4(data, found, limits)
    elif kind == "AVI":
        walk_avi(data, found)
    else:
        walk_mkv(data, found, limits)
    return found
