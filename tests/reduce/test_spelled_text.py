"""Words by their letters: one vector a word whatever stands beside it, a file that comes back, others refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tubelet.errors import InputError, KeyMismatch, ShapeError, WeightsError
from tubelet.packed import Item, pack
from tubelet.reduce.spelled_text import FILE, PIECES, SpelledText, pieces_of


def side(width: int = 8) -> SpelledText:
    torch.manual_seed(0)
    return SpelledText(width, channels=16)


def test_pieces_are_of_one_to_three_letters_and_the_ends():
    found = pieces_of("Tea")
    assert len(found) == 3 + 4 + 3  # t e a; ^t te ea a$; ^te tea ea$
    assert torch.equal(found, pieces_of(" tea "))
    assert int(found.min()) >= 0
    assert int(found.max()) < PIECES
    assert len(pieces_of("a")) == 1 + 2 + 1
    assert pieces_of("€").numel() > 0


def test_a_word_does_not_depend_on_its_neighbours():
    words = side()
    together = words.embed(["total", "tax", "total due"]).detach()
    torch.testing.assert_close(together[1:2], words.embed(["tax"]).detach())
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    assert float(together[0] @ together[2]) > float(together[0] @ together[1]) + 0.2  # shared letters
    assert words.words("What is the total?").shape == (1, 16)
    for nothing in ([], [" "]):
        with pytest.raises(InputError, match="at least one word"):
            words.embed(nothing)


def test_rows_are_the_product_with_one_matrix():
    words, tokens = side(), pack([torch.randn(6, 8)], [Item.of(1, 2, 3)])
    expected = tokens.x @ words.matrix.weight.T
    torch.testing.assert_close(words.rows(tokens).x, expected / expected.norm(dim=1, keepdim=True))
    with pytest.raises(ShapeError, match="rows of 8 values, not of 4"):
        words.rows(pack([torch.randn(6, 4)], [Item.of(1, 2, 3)]))


def test_a_word_of_ends_alone_has_no_piece():
    assert torch.equal(side().embed(["\x02"]).detach(), torch.zeros(1, 16))


def test_it_comes_back_from_its_file(tmp_path: Path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    words = side()
    with pytest.raises(WeightsError):
        SpelledText.load(tmp_path / "nothing")
    words.half().float().save(tmp_path)
    file = tmp_path / FILE
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    back = SpelledText.load(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(words.state_dict().values(), back.state_dict().values(), strict=True))
    save_file({"pieces.weight": torch.zeros(4, 16)}, file)
    with pytest.raises(KeyMismatch, match="not words"):
        SpelledText.load(tmp_path)
    save_file({"pieces.weight": torch.zeros(4, 16), "rows.weight": torch.zeros(16, 8)}, file)
    with pytest.raises(KeyMismatch, match="different spaces"):
        SpelledText.load(tmp_path)
