"""The device that is asked for: the fastest there is, its own for each of several workers, or an error."""

import pytest
import torch

from tubelet.encoder.device import device_of
from tubelet.errors import InputError


@pytest.mark.parametrize(
    ("there", "wanted", "number", "found"),
    [
        ((), "auto", None, "cpu"),
        ((), "auto", 3, "cpu"),
        (("mps",), "auto", 3, "mps"),
        (("cuda", "mps"), "auto", None, "cuda"),
        (("cuda",), "auto", 3, "cuda:1"),
        (("cuda",), "cuda", 2, "cuda:0"),
        (("cuda",), "cuda:1", None, "cuda:1"),
        (("cuda",), "cpu", 1, "cpu"),
        (("cuda",), "mps", None, None),
        ((), "cuda", 0, None),
        ((), "cuda:1", None, None),
    ],
)
def test_it_is_there_or_it_is_said(
    there: tuple[str, ...], wanted: str, number: int | None, found: str | None, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: "cuda" in there)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2 * ("cuda" in there))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: "mps" in there)
    if found is not None:
        assert device_of(wanted, number) == found
        return
    with pytest.raises(InputError, match=f"this machine has no {wanted} device") as error:
        device_of(wanted, number)
    assert error.value.expected == wanted


@pytest.mark.parametrize(("wanted", "said"), [("cuda:2", "has 2 CUDA devices"), ("gpu", "names no device")])
def test_what_is_no_device_here_is_an_error_with_what_there_is(wanted: str, said: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match=said) as error:
        device_of(wanted)
    assert error.value.got == wanted
