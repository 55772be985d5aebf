"""The first description of SHIRG's views, word for word, and that its faults are real."""

import pytest
import torch
import torch.nn.functional as F
from tests.golden.upstream.shirg_seed import SEED_FAULTS, SEED_ROWS, seed_patches, seed_tokens

from tubelet.encoder.config import EncoderConfig, Table
from tubelet.encoder.model import Encoder
from tubelet.errors import ShapeError
from tubelet.packed import Item, pack
from tubelet.pixels.recipe import PixelRecipe
from tubelet.weights.load import untrained

RECIPE = PixelRecipe(14, "square", size=378)
CONFIG = EncoderConfig(16, 1, 2, 16, RECIPE, rope=None, spans=("frame",), table=Table(27, 27, "bicubic"))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return untrained(CONFIG).requires_grad_(False)


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 50, 40, generator=torch.Generator().manual_seed(0))


def literal(encoder: Encoder, pictures: torch.Tensor) -> torch.Tensor:
    """The plan's extract_multiview_tokens, view by view, padded batches and all."""
    found = []
    for side in (336, 336, 336, 336, 672):
        view = F.interpolate(pictures, size=(side, side), mode="bilinear", align_corners=False)
        cut = F.unfold(view, kernel_size=14, stride=14).transpose(1, 2)  # (B, N, 3 x 14 x 14)
        n = side // 14
        found.append(torch.stack([encoder(pack([one], [Item.of(1, n, n)])).x for one in cut]))
    together = torch.cat(found, dim=1)
    return together[:, :3645, :] if together.shape[1] > 3645 else together


def test_it_is_what_the_plan_says(encoder: Encoder):
    got = seed_tokens(images(2), encoder).check()
    torch.testing.assert_close(got.x.view(2, SEED_ROWS, 16), literal(encoder, images(2)), atol=1e-5, rtol=1e-5)


def test_the_faults_are_real(encoder: Encoder):
    p = seed_patches(images(1), RECIPE)
    assert p.lengths == (576, 576, 576, 576, 2304) and sum(p.lengths) == 4608
    views = p.unpack()
    assert all(torch.equal(views[0], view) for view in views[1:4])
    kept = seed_tokens(images(1), encoder)
    assert kept.lengths == (576, 576, 576, 576, 1341)
    last = int(kept.pos[-1, 1])
    assert last == 27 and pytest.approx(0.42, abs=0.01) == 1 - 27.9 / 48  # and nothing below
    assert len(SEED_FAULTS) == 5


@pytest.mark.usefixtures("as_in_production")
def test_only_normalised_pictures():
    for wrong in (torch.zeros(3, 40, 40), torch.zeros(1, 4, 40, 40), torch.zeros(1, 3, 40, 40, dtype=torch.uint8)):
        with pytest.raises(ShapeError):
            seed_patches(wrong, RECIPE)
