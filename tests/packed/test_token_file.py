"""A file of tokens gives back everything that was saved in it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tubelet import Item, Packed, TokenFile, pack
from tubelet.errors import InputError, ShapeError, UnsafeFile
from tubelet.packed import Grid

FULL = (0.0, 0.0, 30.0, 20.0)


def tokens(pictures: tuple[int, ...] = (0, 1)) -> Packed:
    items = [Item(Grid(1, 2, 3), (0.0,), picture, FULL) for picture in pictures]
    return pack([torch.randn(6, 8) for _ in items], items)


def test_names_pooled_vectors_and_whatever_else(tmp_path: Path):
    p, pooled, scores = tokens(), torch.randn(2, 8), torch.randn(12)
    words = {"files": json.dumps(["a/page.png", "b.jpg"]), "untrained": "true", "mine": "yes"}
    p.save(tmp_path / "t.safetensors", {"pooled": pooled, "scores": scores}, words)
    found = TokenFile.load(tmp_path / "t.safetensors")
    assert found.tokens.equal(p)
    assert found.names == ("a/page.png", "b.jpg")
    assert found.pooled is not None
    assert torch.equal(found.pooled, pooled)
    assert torch.equal(found.tensors["scores"], scores)
    assert found.metadata == words
    assert found.untrained
    assert "pooled, scores" in repr(found)
    assert Packed.load(tmp_path / "t.safetensors").equal(p)


def test_a_file_that_says_nothing_more(tmp_path: Path):
    """As `Packed.save` writes one without further arguments, today and before there was a TokenFile."""
    tokens().save(tmp_path / "t.safetensors")
    found = TokenFile.load(tmp_path / "t.safetensors")
    assert (found.names, found.pooled, dict(found.metadata)) == ((), None, {})


@pytest.mark.parametrize("pictures", [(0, 2), (0, 1)])
def test_names_belong_to_what_was_read(tmp_path: Path, pictures: tuple[int, ...]):
    """Whether pictures are counted with those left out, as encode does, or without, as select does."""
    words = {"files": json.dumps(["a.png", "broken.png", "c.png"]), "left_out": json.dumps({"1": "DecodeError"})}
    tokens(pictures).save(tmp_path / "t.safetensors", None, words)
    assert TokenFile.load(tmp_path / "t.safetensors").names == ("a.png", "c.png")


def test_views_of_one_picture_have_its_name(tmp_path: Path):
    tokens((0, 0, 1)).save(tmp_path / "t.safetensors", None, {"files": json.dumps(["a.png", "b.png"])})
    assert TokenFile.load(tmp_path / "t.safetensors").names == ("a.png", "a.png", "b.png")


@pytest.mark.parametrize("files", ["[1, 2]", "{}", "[", '["a.png"]', '["a", "a", "a"]', "7"])
def test_names_that_are_none_are_refused(tmp_path: Path, files: str):
    tokens().save(tmp_path / "t.safetensors", None, {"files": files})
    with pytest.raises(UnsafeFile):
        TokenFile.load(tmp_path / "t.safetensors")
    assert Packed.load(tmp_path / "t.safetensors").lengths == (6, 6)  # the rows are good


def test_what_is_no_file_of_tokens(tmp_path: Path):
    with pytest.raises(InputError, match="no such"):
        TokenFile.load(tmp_path / "none.safetensors")
    save_file({"x": torch.zeros(2, 2)}, tmp_path / "other.safetensors")
    with pytest.raises(UnsafeFile, match=r"other\.safetensors: not a tubelet pack"):
        TokenFile.load(tmp_path / "other.safetensors")
    p = tokens()
    Packed(p.x, p.pos * 0, p.items, p.lengths).save(tmp_path / "twice.safetensors")
    with pytest.raises(ShapeError, match=r"twice\.safetensors"):
        TokenFile.load(tmp_path / "twice.safetensors")
