"""A video file opened for FFmpeg: only ever as bytes we read ourselves, in one container format, with our own errors.

FFmpeg treats what it is given as an address: a path may be a playlist or a protocol that opens other files. It is never
given one here. Every reader gets a `View` of the open file with a place of its own, so that several can read at once.
"""

import io
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from fractions import Fraction
from numbers import Rational
from typing import Any, Final, TypeAlias, cast

import av
import av.codec
import av.container
import av.error
import av.stream
import av.video
from av.codec.context import CodecContext
from av.video.codeccontext import VideoCodecContext

from tubelet.errors import DecodeError, NoVideo, TubeletError, UnsupportedFormat
from tubelet.reading.limits import Limits
from tubelet.reading.sniff import Format
from tubelet.reading.source import BinaryFile, Source, file_errors, is_own
from tubelet.reading.video.parameters import Stored, parameter_set

# The demuxer for each format, by FFmpeg's own name, which is also the whitelist. Nothing else may be opened.
_DEMUXERS: Final[dict[Format, str]] = {
    "MP4": "mov,mp4,m4a,3gp,3g2,mj2",
    "MKV": "matroska,webm",
    "WEBM": "matroska,webm",
    "AVI": "avi",
    "AVIF": "mov,mp4,m4a,3gp,3g2,mj2",
}
# Decoders that clips are met with in practice; the hundreds of others are not for strangers' bytes.
CODECS: Final = frozenset(
    (
        *("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "libvpx", "libvpx-vp9"),
        *("mpeg4", "mpeg1video", "mpeg2video", "h263", "flv", "msmpeg4", "msmpeg4v2", "wmv1", "wmv2", "wmv3", "vc1"),
        *("theora", "mjpeg", "prores", "dnxhd", "dvvideo", "ffv1", "huffyuv", "ffvhuff", "utvideo", "rawvideo"),
        *("png", "qtrle", "cinepak"),
    )
)
# Looking at a file must not decode it: the sizes come from the headers, the pixel format from the first frame.
_OPTIONS: Final = {"protocol_whitelist": "", "skip_frame": "all", "threads": "1"}
_BUFFER_BYTES: Final = 1 << 16

# Texts that are no UTF-8 stop no file: PyAV has to be told so up to version 18, and cannot be told from 19 on.
_METADATA: Final[dict[str, Any]] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
Guard: TypeAlias = AbstractContextManager[object]  # a lock; `threading.Lock` is not a type in every Python

# What PyAV raises for bad content, as met by feeding it damaged files.
FOREIGN: Final = (
    av.error.FFmpegError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


@contextmanager
def decoder_errors(what: str) -> Iterator[None]:
    """The one place where an exception of FFmpeg or PyAV becomes a DecodeError; it stays in `__cause__`."""
    try:
        yield
    except TubeletError:
        raise
    except FOREIGN as error:
        raise DecodeError(f"the video could not be {what}: {_kind(error)}") from error


def _kind(error: BaseException) -> str:
    """A class name without addresses or paths, which foreign messages may carry."""
    if isinstance(error, av.error.InvalidDataError):
        return "invalid data"
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    return type(error).__name__


class View(io.RawIOBase):
    """A read-only file over a Source with a position of its own. Many may read one Source at the same time.

    Real files are read by `pread`, bytes in memory are sliced without a copy of the whole; any other object is read
    under the lock, which all its views must share.
    """

    def __init__(self, source: Source, lock: Guard) -> None:
        super().__init__()
        self.size = source.size
        self._place = 0
        self.ending: BaseException | None = None  # what asks the program to end: FFmpeg's callbacks would drop it
        self._file: BinaryFile = source.file
        self._lock = lock
        self._fd = _real_file(source.file)
        self._whole = source.file.getvalue() if type(source.file) is io.BytesIO else None  # shared, not copied

    def at(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`, fewer only at the end. Raises: DecodeError when the file object fails."""
        count = min(count, self.size - offset)
        if count <= 0:
            return b""
        if self._whole is not None:
            return self._whole[offset : offset + count]
        with file_errors("read"):
            if self._fd is not None:
                return os.pread(self._fd, count, offset)
            with self._lock:
                self._file.seek(offset)
                return self._file.read(count)

    def read(self, size: int = -1) -> bytes:
        try:
            data = self.at(self._place, self.size - self._place if size < 0 else size)
        except Exception:
            raise
        except BaseException as error:
            self.ending = error
            raise InterruptedError from error
        self._place += len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = (0, self._place, self.size)[whence]
        if base + offset < 0:
            raise ValueError("a place before the start of the file")
        self._place = base + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True


def _real_file(file: BinaryFile) -> int | None:
    """The descriptor behind an unmodified file of Python's own, None for anything else."""
    if not hasattr(os, "pread") or not is_own(file) or type(file) is io.BytesIO:
        return None
    return cast(io.FileIO, file).fileno()


@contextmanager
def opened(
    source: Source, lock: Guard | None = None, *, first: Callable[[View], object] | None = None
) -> Iterator[av.container.InputContainer]:
    """The container, closed at the end. Nothing is decoded.

    lock: shared by all that read this Source at the same time. first: called with the view of the file before FFmpeg
    sees it, which has no ceiling for what a file counts.

    Raises: DecodeError, UnsupportedFormat (not a video container).
    """
    names = _DEMUXERS.get(source.format)
    if names is None:
        raise UnsupportedFormat(f"a {source.format} file is not a video", got=source.format, source=source.name)
    view = View(source, lock or threading.Lock())
    try:
        if first is not None:
            first(view)
        with decoder_errors("opened"):
            container = cast(
                av.container.InputContainer,
                av.open(
                    view,
                    "r",
                    format=names.split(",")[0],
                    options={**_OPTIONS, "format_whitelist": names, "codec_whitelist": ",".join(sorted(CODECS))},
                    buffer_size=_BUFFER_BYTES,
                    **_METADATA,
                ),
            )
        try:
            yield container
        finally:
            container.close()
        if view.ending is not None:
            raise view.ending
        source.check_file()
    except TubeletError as error:
        if view.ending is not None:
            raise view.ending from None
        error.placed(source=source.name)
        raise
    finally:
        view.close()


def choose_stream(container: av.container.InputContainer, limits: Limits) -> tuple[av.video.VideoStream, list[str]]:
    """The video stream that is shown, its stored size checked, and a note when there were several.

    Pictures attached to a sound file and thumbnails do not count. Of several, the one flagged as default, then the one
    with most pixels, then the first. Raises: NoVideo, UnsupportedFormat (a codec that is not read), LimitError.
    """
    pictures = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    streams = [s for s in container.streams.video if not s.disposition & pictures]
    if not streams:
        what = "only a picture attached to it" if container.streams.video else _others(container)
        raise NoVideo(f"the file has no video stream, {what}", got=what)
    known = [s for s in streams if _is_known(s)]
    if not known:
        names = sorted({_codec_name(s) for s in streams})
        raise UnsupportedFormat(f"the video is coded as {', '.join(names)}, which is not read", got=tuple(names))
    default = av.stream.Disposition.default
    best = max(known, key=lambda s: (bool(s.disposition & default), s.width * s.height, -s.index))
    if best.width < 1 or best.height < 1:
        raise DecodeError("the video stream declares no picture size", got=(best.width, best.height))
    limits.check_picture(best.width, best.height)
    several = f"stream {best.index} of {len(streams)} video streams was read"
    return best, [several] if len(streams) > 1 else []


def only_stream(container: av.container.InputContainer, number: int) -> av.video.VideoStream:
    """The video stream with this number; the demuxer is told to pass over all others."""
    for other in container.streams:
        if other.index != number:
            other.discard = av.stream.Discard.all
    stream = container.streams[number]
    if not isinstance(stream, av.video.VideoStream):
        raise DecodeError("the video stream is not where the index found it")
    return stream


def decoder_of(stream: av.video.VideoStream) -> VideoCodecContext:
    """The decoder of a stream: FFmpeg's own, or libvpx's where that one is better.

    VP8: FFmpeg's reads past the end of damaged data, and then gives other pixels each time. VP8 and VP9 whose track
    says that it has alpha: FFmpeg's leave alpha out. Raises: ValueError where alpha is said and libvpx is not there.
    """
    own = stream.codec_context
    alpha = stream.metadata.get("alpha_mode") == "1"
    name = {"vp8": "libvpx", "vp9": "libvpx-vp9" if alpha else None}.get(own.codec.name)
    if name is None or (not alpha and name not in av.codec.codecs_available):
        return own
    codec = cast(VideoCodecContext, CodecContext.create(name, "r"))
    codec.extradata = own.extradata
    return codec


def stored_as(
    source: Source, stream: av.video.VideoStream, said: tuple[int, int] | None, limits: Limits
) -> tuple[Stored, list[str]]:
    """Size and shape of pixels by the stream's own header or its first picture, and a note where that is not the size
    `said` by the container. The shape is the container's, where it tells one and the sizes are alike: equal, or one
    picture at two scales, which is still shown in the shape the container asks for.

    Cost: nothing for H.264 in MP4 and MKV; else opening the file again and decoding one picture.
    Raises: LimitError for the size.
    """
    told = Stored(stream.width, stream.height, _shape(stream.sample_aspect_ratio))
    width, height = said if said and min(said) > 0 else told[:2]
    inside = None
    if stream.codec_context.codec.name == "h264":
        inside = parameter_set(stream.codec_context.extradata or b"")
    if inside is None or inside[:2] != (width, height):  # FFmpeg's decoder may cut H.264 to what the container says
        inside = _first_picture(source, stream, limits) or inside
    if inside is None:  # damage is judged when the pictures are read
        return told, []
    limits.check_picture(inside.width, inside.height)
    if abs(inside.width * height - inside.height * width) <= max(inside[:2]):  # a pixel of rounding
        inside = inside._replace(sample_aspect=told.sample_aspect or inside.sample_aspect)
    if inside[:2] == (width, height):
        return inside, []
    return inside, [f"the container says {width} x {height}, its pictures are {inside.width} x {inside.height}"]


def _first_picture(source: Source, stream: av.video.VideoStream, limits: Limits) -> Stored | None:
    """What decoding the first packet gives; None where it gives nothing."""
    with opened(source) as container:
        try:
            first = only_stream(container, stream.index)
            codec = decoder_of(first)
            codec.thread_count, codec.options = 1, {"max_pixels": str(limits.max_pixels)}
            codec.skip_frame = "DEFAULT"
            packet = next(container.demux(first))
            frames = codec.decode(packet) + (codec.decode(None) if packet.size else [])
        except TubeletError:
            raise
        except (*FOREIGN, StopIteration):
            return None
    return Stored(frames[0].width, frames[0].height, _shape(codec.sample_aspect_ratio)) if frames else None


def _shape(said: Rational | None) -> Fraction | None:
    """PyAV's ratio, which is its own type from version 19 on, where 0:1 is one that is not known."""
    return Fraction(said) if said and said.denominator else None


def _is_known(stream: av.video.VideoStream) -> bool:
    return stream.codec_context is not None and stream.codec_context.codec.name in CODECS


def _codec_name(stream: av.video.VideoStream) -> str:
    return "an unknown codec" if stream.codec_context is None else stream.codec_context.codec.name


def _others(container: av.container.InputContainer) -> str:
    kinds: Sequence[str] = sorted({s.type for s in container.streams})
    return f"only {' and '.join(kinds)}" if kinds else "and no other"
