"""Addresses: never by themselves, of four schemes only, through fsspec, and decoded as a stranger's bytes are."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from tubelet import read
from tubelet.errors import DecodeError, InputError, LimitError
from tubelet.reading.limits import Limits
from tubelet.reading.source import open_source
from tubelet.reading.urls import is_url, open_url


class Bucket(MemoryFileSystem):
    """s3, as far as this test asks it."""

    protocol = "s3"
    store: dict = {}  # noqa: RUF012  fsspec's own way to share it
    pseudo_dirs = [""]  # noqa: RUF012


@pytest.fixture
def bucket() -> str:
    fsspec.register_implementation("s3", Bucket, clobber=True)
    Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3)).save(file := io.BytesIO(), "PNG")
    Bucket().pipe_file("s3://bucket/page.png", file.getvalue())
    return "s3://bucket/page.png"


def test_an_address_is_read_only_when_asked_for(bucket: str):
    with pytest.raises(InputError, match=r"urls=True of tubelet.read, --urls of a command, with pip install"):
        read(bucket)
    [clip] = read([bucket], urls=True, isolate="never")
    assert (clip.source, clip.frames.shape) == (bucket, (1, 4, 5, 3))
    assert np.array_equal(clip.frames.reshape(-1), np.arange(60))
    with open_source(open_url(bucket), Limits()) as src:
        assert src.foreign


def test_limits_count_for_addresses_too(bucket: str):
    with pytest.raises(LimitError, match="max_bytes"):
        read(bucket, urls=True, limits=Limits(max_bytes=20))


@pytest.mark.parametrize(
    "address",
    [
        "ftp://host/a.png",
        "file:///etc/passwd",
        "memory://a.png",
        "s3://a/b.zip::file://c",
        "zip://a::s3://b",
        "httsp://a/b",
    ],
)
def test_other_schemes_and_chains_of_them_are_refused(address: str, bucket: str):
    assert is_url(address)
    with pytest.raises(InputError, match="addresses are read by http, https, s3, hf"):
        read(address, urls=True)


def test_what_is_not_there_is_an_error_of_ours(bucket: str):
    with pytest.raises((InputError, DecodeError), match=r"s3://bucket/gone.png: the address could not be opened"):
        read("s3://bucket/gone.png", urls=True)


@pytest.mark.parametrize("when", ["opened", "read"])
def test_a_host_that_fails_is_an_error_of_ours(bucket: str, when: str, monkeypatch: pytest.MonkeyPatch):
    """aiohttp, which need not be there, raises what is no OSError for a status of 500."""

    class ClientError(Exception):
        pass

    def fails(*args: object, **given: object) -> None:
        raise ClientError("500")

    monkeypatch.setitem(sys.modules, "aiohttp", SimpleNamespace(ClientError=ClientError))
    if when == "opened":
        monkeypatch.setattr(Bucket, "_open", fails)
    else:
        monkeypatch.setattr("fsspec.implementations.memory.MemoryFile.read", fails, raising=False)
    with pytest.raises(InputError, match=f"s3://bucket/page.png: the address could not be {when}: ClientError"):
        read(bucket, urls=True, isolate="never")


def test_without_fsspec_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(InputError, match=r'pip install "tubelet\[urls\]"'):
        read("https://example.org/a.png", urls=True)


def test_paths_are_no_addresses():
    assert not any(map(is_url, ("page.png", "C:\\page.png", "C:/page.png", "a:b", "://x", Path("s3://a/b"))))
