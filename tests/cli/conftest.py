"""Small inputs and a small model for the commands."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from tests.cli.cli_inputs import write_clip, write_picture
from tests.forked import VARIABLES, Forked

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three pictures of different sizes, one clip, and a file that is damaged."""
    folder = tmp_path_factory.mktemp("inputs")
    broken = write_picture(folder / "broken.png", 90, 70)
    broken.write_bytes(broken.read_bytes()[:900])
    return {
        "wide": write_picture(folder / "wide.png", 100, 40, 1),
        "tall": write_picture(folder / "tall.jpg", 33, 80, 2),
        "small": write_picture(folder / "small.webp", 32, 32, 3),
        "clip": write_clip(folder / "clip.mp4"),
        "broken": broken,
    }


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny encoder: 2 layers of 64 channels, patches of 16 pixels."""
    from tubelet.encoder.config import EncoderConfig
    from tubelet.pixels.recipe import PixelRecipe
    from tubelet.weights.load import untrained
    from tubelet.weights.save import save_encoder

    config = EncoderConfig(hidden=64, layers=2, heads=2, mlp=128, pixels=PixelRecipe(16, size=448))
    return save_encoder(untrained(config, seed=5), tmp_path_factory.mktemp("weights") / "tiny", "packing")


@pytest.fixture
def tubelet(tmp_path: Path, forked: Forked) -> Run:
    """Run the command in its own process, in an empty folder; in a fresh interpreter when variables are given."""

    def run(*args: object, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = ["-m", "tubelet", *map(as_argument, args)]
        if env is None:
            return forked(command, tmp_path)
        environment = {**os.environ, **VARIABLES, **env}
        command.insert(0, sys.executable)
        return subprocess.run(
            command, env=environment, capture_output=True, encoding="utf-8", cwd=tmp_path, timeout=300, check=False
        )

    return run


def as_argument(value: object) -> str:
    return os.fspath(value) if isinstance(value, str | os.PathLike) else str(value)
