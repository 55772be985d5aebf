"""One vector for each input, in order, whatever the inputs are and however they are batched."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.families.pooling_towers import TOWERS, pooled_by_peer, write_tower
from tests.integrations.border_models import CONFIGS, PLAIN, random_encoder

from tubelet.errors import ConfigError, InputError, ShapeError, UnsupportedFormat
from tubelet.integrations.embed import ImageEmbedder
from tubelet.pixels.patchify import patchify
from tubelet.reading.clip import Clip
from tubelet.weights.save import save_encoder


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def embedder() -> ImageEmbedder:
    return ImageEmbedder(random_encoder())


def vector(embedder: ImageEmbedder, frames: np.ndarray) -> torch.Tensor:
    """The slow way: one input, one call."""
    clip = Clip(frames, tuple(float(i) for i in range(len(frames))))
    with torch.no_grad():
        return embedder.encoder.pooled(embedder.encoder(patchify([clip], embedder.encoder.pixels)))[0]


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_every_kind_of_input_in_order(embedder: ImageEmbedder, batch_size: int, tmp_path: Path):
    arrays = [noise(8 + 4 * i, 40 - 4 * i, i) for i in range(6)]
    Image.fromarray(arrays[0]).save(tmp_path / "a.png")
    Image.fromarray(arrays[1]).save(tmp_path / "b.png")
    inputs = [
        tmp_path / "a.png",
        (tmp_path / "b.png").read_bytes(),
        Image.fromarray(arrays[2]),
        arrays[3],
        torch.from_numpy(arrays[4]).permute(2, 0, 1),
        Clip(np.stack([arrays[5]] * 3), (0.0, 0.5, 1.0)),
    ]
    got = embedder.encode(inputs, batch_size=batch_size)
    want = [vector(embedder, a[None]) for a in arrays[:5]] + [vector(embedder, np.stack([arrays[5]] * 3))]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, torch.stack(want).numpy(), atol=2e-5)
    back = embedder.encode(inputs[::-1], batch_size=batch_size)
    np.testing.assert_allclose(back[::-1], got, atol=2e-5)


def test_files_alone(embedder: ImageEmbedder, tmp_path: Path):
    for i in range(5):
        Image.fromarray(noise(20, 8 + 4 * i, i)).save(tmp_path / f"{i}.png")
    got = embedder.encode((str(tmp_path / f"{i}.png") for i in range(5)), batch_size=2)
    want = torch.stack([vector(embedder, noise(20, 8 + 4 * i, i)[None]) for i in range(5)])
    np.testing.assert_allclose(got, want.numpy(), atol=2e-5)


def test_what_comes_out(embedder: ImageEmbedder):
    pictures = [noise(8, 12, i) for i in range(3)]
    whole = embedder.encode(pictures)
    assert isinstance(whole, np.ndarray)
    assert whole.shape == (3, embedder.dimension) == (3, 64)
    tensor = embedder.encode(pictures, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor)
    assert torch.equal(tensor, torch.from_numpy(whole))
    tensor.requires_grad_()  # not an inference tensor
    listed = embedder.encode(pictures, convert_to_numpy=False)
    assert [t.shape for t in listed] == [(64,)] * 3
    one = embedder.encode(pictures[0])
    assert isinstance(one, np.ndarray)
    assert one.shape == (64,)
    assert embedder.encode([]).shape == (0, 64)


def test_normalised(embedder: ImageEmbedder):
    pictures = [noise(8, 12, i) for i in range(3)]
    plain, unit = embedder.encode(pictures), embedder.encode(pictures, normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain, axis=1, keepdims=True), atol=1e-6)


def test_half_precision_comes_out_as_float32_arrays():
    embedder = ImageEmbedder(random_encoder(), dtype=torch.bfloat16)
    assert embedder.encode([noise(8, 8)]).dtype == np.float32
    assert embedder.encode([noise(8, 8)], convert_to_tensor=True).dtype == torch.bfloat16


def test_the_mean_of_the_tokens():
    encoder = random_encoder(CONFIGS["merger in windows"])
    with pytest.raises(ConfigError, match="mean"):
        ImageEmbedder(encoder)
    embedder = ImageEmbedder(encoder, pooling="mean")
    pictures = [noise(16, 24), noise(32, 8, 1)]
    got = embedder.encode(pictures, convert_to_tensor=True)
    with torch.no_grad():
        tokens = encoder(patchify([Clip(p[None], (0.0,)) for p in pictures], encoder.pixels))
    torch.testing.assert_close(got, torch.stack([t.mean(0) for t in tokens.unpack()]), atol=1e-5, rtol=1e-4)
    assert embedder.dimension == got.shape[1] == 40


@pytest.mark.parametrize("name", TOWERS)
def test_families_that_pool_their_class_token(name: str, tmp_path: Path):
    peer = write_tower(name, tmp_path)
    embedder = ImageEmbedder(tmp_path)
    assert embedder.encoder.pool is None
    clips = [
        Clip(noise(64, 64)[None], (0.0,)),
        Clip(noise(90, 50, 1)[None], (0.0,)),
        Clip(np.stack([noise(70, 64, i) for i in (2, 3, 4)]), (0.0, 0.5, 1.0)),
    ]
    got = embedder.encode(clips, batch_size=2, convert_to_tensor=True)
    want = torch.stack([pooled_by_peer(peer, clip, embedder.pixels) for clip in clips])
    assert embedder.dimension == got.shape[1]
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_from_a_folder_and_with_a_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = save_encoder(random_encoder(), tmp_path / "w", "packing")
    embedder = ImageEmbedder(folder)
    assert embedder.encoder.config.hidden == PLAIN.hidden
    embedder.encode([noise(8, 8)], show_progress_bar=False)
    assert capsys.readouterr() == ("", "")
    embedder.encode([noise(8, 8)] * 3, batch_size=2, show_progress_bar=True)
    said = capsys.readouterr()
    assert said.out == ""
    assert "100%" in said.err


def test_videos_by_time():
    embedder = ImageEmbedder(random_encoder(), max_pixels=4000)
    walk = Path(__file__).parents[2] / "examples" / "walk.mp4"
    two = embedder.encode([walk, walk], num_frames=2)
    np.testing.assert_allclose(two[0], two[1], atol=1e-5)
    assert not np.allclose(two[0], embedder.encode(walk, num_frames=1), atol=1e-4)


def test_errors_name_the_input_by_its_place(embedder: ImageEmbedder, tmp_path: Path):
    good = noise(8, 8)
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7 ...")
    Image.fromarray(good).save(tmp_path / "b.png")
    with pytest.raises(UnsupportedFormat) as caught:
        embedder.encode([good, good, good, tmp_path / "a.pdf"], batch_size=3)
    assert caught.value.item == 3
    with pytest.raises(UnsupportedFormat) as caught:
        embedder.encode([tmp_path / "b.png", good, tmp_path / "b.png", tmp_path / "a.pdf"], batch_size=2)
    assert caught.value.item == 3
    with pytest.raises(ShapeError) as shape:
        embedder.encode([good, good, good.astype(np.float32)], batch_size=2)
    assert shape.value.item == 2
    with pytest.raises(InputError, match="object"):
        embedder.encode([object()])
    with pytest.raises(InputError, match="int"):
        embedder.encode(3)
    with pytest.raises(InputError, match="batch_size"):
        embedder.encode([good], batch_size=0)


def test_large_pictures_are_reduced_on_request():
    encoder, picture = random_encoder(), noise(60, 90)
    small = ImageEmbedder(encoder, max_pixels=400)
    reduced = patchify([Clip(picture[None], (0.0,))], replace(PLAIN.pixels, max_pixels=400))
    assert reduced.items[0].grid.rows * 4 * 4 <= 400 < 60 * 90
    with torch.no_grad():
        want = encoder.pooled(encoder(reduced))[0].numpy()
    np.testing.assert_allclose(small.encode(picture), want, atol=2e-5)
    assert not np.allclose(ImageEmbedder(encoder).encode(picture), want, atol=1e-2)
    cropping = random_encoder(replace(PLAIN, pixels=replace(PLAIN.pixels, rule="shortest_crop")))
    sized = random_encoder(replace(PLAIN, pixels=replace(PLAIN.pixels, rule="longest_side")))
    for fixed in (cropping, sized):
        with pytest.raises(ConfigError, match="max_pixels"):
            ImageEmbedder(fixed, max_pixels=400)
