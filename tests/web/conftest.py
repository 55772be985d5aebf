"""A small encoder, and the server's application around it, asked in this process."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.cli.cli_inputs import write_clip, write_picture
from tests.web.asgi import HOST, TOKEN

from tubelet.cli.serve import views_of
from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.model import Encoder
from tubelet.pixels.recipe import PixelRecipe
from tubelet.web.api import Api
from tubelet.web.bench import Bench
from tubelet.web.guard import Guard, Rules


def tiny_encoder() -> Encoder:
    from tubelet.weights.load import untrained

    return untrained(EncoderConfig(hidden=64, layers=2, heads=2, mlp=128, pixels=PixelRecipe(16)), seed=5)


@pytest.fixture(scope="session")
def encoder() -> Encoder:
    return tiny_encoder()


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("media")
    broken = write_picture(folder / "broken.png", 90, 70)
    broken.write_bytes(broken.read_bytes()[:900])
    (folder / "text.png").write_text("no picture at all")
    return {
        "page": write_picture(folder / "page.png", 160, 112, 1),
        "clip": write_clip(folder / "clip.mp4"),
        "broken": broken,
        "text": folder / "text.png",
    }


@pytest.fixture(scope="session")
def api(encoder: Encoder, media: dict[str, Path]) -> Iterator[Api]:
    files = (str(media["page"]), str(media["clip"]))
    bench = Bench(
        *("tiny", encoder, encoder.pixels, True),
        views_of=views_of,
        files=files,
        root=media["page"].parent,
        most_upload=1_000_000,
    )
    made = Api(bench)
    yield made
    made.close()


@pytest.fixture(scope="session")
def app(api: Api) -> Any:
    return Guard(api.router, Rules(TOKEN, frozenset({HOST}), 1_000_000))


def png(width: int, height: int, level: int = 128) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), level, np.uint8)).save(out, "PNG")
    return out.getvalue()
