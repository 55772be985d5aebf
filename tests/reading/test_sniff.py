"""Formats by their first bytes, and the words for what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tubelet.errors import UnsupportedFormat
from tubelet.reading.sniff import HEAD_BYTES, PICTURES, VIDEOS, looks_like, sniff


def ftyp(major: bytes, *compatible: bytes) -> bytes:
    body = major + bytes(4) + b"".join(compatible)
    return (len(body) + 8).to_bytes(4, "big") + b"ftyp" + body


def ebml(doctype: bytes, version: bytes = b"\x42\x86\x81\x01") -> bytes:
    return b"\x1a\x45\xdf\xa3\xa3" + version + b"\x42\x82" + bytes((0x80 | len(doctype),)) + doctype


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "JPEG"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "PNG"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "WEBP"),
        (b"RIFF\x10\0\0\0AVI LIST", "AVI"),
        (b"GIF87a\1\0", "GIF"),
        (b"GIF89a\1\0", "GIF"),
        (b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0", "BMP"),
        (b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x0c\0\0\0", "BMP"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"MM\0*\0\0\0\x08", "TIFF"),
        (b"II+\0\x08\0\0\0", "TIFF"),
        (ftyp(b"avif", b"mif1"), "AVIF"),
        (ftyp(b"avis", b"avif"), "AVIF"),
        (ftyp(b"mif1", b"avif", b"miaf"), "AVIF"),
        (ftyp(b"isom", b"iso2", b"avc1"), "MP4"),
        (ftyp(b"qt  "), "MP4"),
        (ftyp(b"mp42", b"mp41"), "MP4"),
        (ftyp(b"M4V "), "MP4"),
        (b"\0\0\0\x6cmoov" + bytes(40), "MP4"),
        (b"\0\0\0\x08wide\0\0\0\0mdat", "MP4"),
        (b"\0\0\0\1mdat" + bytes(8), "MP4"),
        (ebml(b"matroska"), "MKV"),
        (ebml(b"webm"), "WEBM"),
    ],
)
def test_formats_that_are_read(head: bytes, expected: str):
    assert sniff(head) == expected
    assert sniff(head + b"\xaa" * 100) == expected


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "empty"),
        (b"\xff", "a single byte"),
        (b"\0", "a single byte"),
        (b"get free pizza on Friday", "text"),
        (b"BMW makes cars and motorcycles.", "text"),
        (b"%PDF-1.7", "a PDF document"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "a PostScript or EPS file"),
        (b"8BPS\0\1", "a Photoshop file"),
        (b"SIMPLE  =                    T", "a FITS file"),
        (b"\x7fELF\x02", "an ELF program"),
        (b"PK\x03\x04", "a zip archive"),
        (b"  \n<svg xmlns=", "an SVG drawing"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>", "an XML document (SVG, DASH or other)"),
        (b"<!DOCTYPE html>", "an HTML page"),
        (b"#EXTM3U\n#EXTINF", "an M3U8 playlist"),
        (b"ffconcat version 1.0", "an FFmpeg concat script"),
        (b"<MPD xmlns=", "a DASH manifest"),
        (b"version https://git-lfs.github.com/spec/v1", "a Git LFS pointer, not the file it stands for"),
        (ftyp(b"heic", b"mif1"), "a HEIF picture"),
        (ftyp(b"mif1", b"heic"), "a HEIF picture"),
        (ftyp(b"crx ", b"isom"), "a raw camera file"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "a WAVE sound"),
        (ebml(b"matroshka"), "an EBML file of another kind"),
        (b"\x93NUMPY\x01\0", "a NumPy array"),
        (b"\0\0\1\0\1\0", "an icon file"),
        (b"\0\0\0\x0cjP  \r\n", "a JPEG 2000 picture"),
        (b"\x01\x02\x03\x04", "of no known kind"),
    ],
)
def test_what_is_refused_is_named(head: bytes, words: str):
    with pytest.raises(UnsupportedFormat, match="formats that are read") as caught:
        sniff(head)
    assert caught.value.got == words
    assert looks_like(head) == words


@given(st.binary(max_size=120))
def test_any_bytes_have_a_format_or_are_refused(head: bytes):
    try:
        assert sniff(head) in PICTURES | VIDEOS
    except UnsupportedFormat as error:
        assert error.got
    assert sniffed(head) == sniffed(head[:HEAD_BYTES])


def sniffed(head: bytes) -> str | None:
    try:
        return sniff(head)
    except UnsupportedFormat:
        return None


@pytest.mark.parametrize("length", range(1, 16))
def test_the_start_of_an_iso_file_alone_proves_nothing(length: int):
    with pytest.raises(UnsupportedFormat):
        sniff(ftyp(b"avif", b"mif1")[:length])
