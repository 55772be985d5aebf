"""An AVIF of more than 8 bits and high dynamic range, decoded by FFmpeg with all of its bits and tone-mapped."""

from PIL import Image

from tubelet.errors import DecodeError, NoVideo, UnsupportedFormat
from tubelet.reading.hdr import hdr_of
from tubelet.reading.limits import Limits
from tubelet.reading.picture.decode import open_picture
from tubelet.reading.source import Source
from tubelet.reading.video.file import choose_stream, decoder_errors, opened
from tubelet.reading.video.frames import Painter, Upright


def deep_avif(
    src: Source, limits: Limits, stated: tuple[int, int, int, bool] | None, notes: list[str]
) -> Image.Image | None:
    """The picture as stored (not turned yet), 8-bit sRGB; None when it is not HDR, has alpha, moves, or is put together
    from several pieces, which is left to Pillow. Leaves the file at its start.

    stated: numbers of H.273 for primaries, curve and matrix, and full range, as the file's boxes say them; else those
    of the stream count.
    """
    pillow = open_picture(src.format, src.file)
    size, plain = pillow.size, pillow.mode == "RGB" and getattr(pillow, "n_frames", 1) == 1
    src.file.seek(0)
    if not plain:
        return None
    try:
        with opened(src) as container:
            stream, _ = choose_stream(container, limits)
            if (stream.width, stream.height) != size:
                return None
            codec = stream.codec_context
            codec.skip_frame, codec.options = "DEFAULT", {"max_pixels": str(limits.max_pixels)}
            with decoder_errors("decoded"):
                frame = next(container.decode(stream), None)
            if frame is None or (frame.width, frame.height) != size:
                return None
            if stated is not None:
                frame.color_primaries, frame.color_trc, frame.colorspace = stated[:3]
                frame.color_range = 2 if stated[3] else 1
            if hdr_of(frame.color_trc, frame.color_primaries) is None:
                return None
            painter = Painter(Upright(*size, *size))
            pixels = painter.paint(frame)
            notes.extend(sorted(painter.notes))
            return Image.fromarray(pixels)
    except (DecodeError, NoVideo, UnsupportedFormat):  # Pillow's decoder is asked, and judges
        return None
    finally:
        src.file.seek(0)
