"""A tiny model, sixty files, and what an uninterrupted run makes of them."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.scale.runs import TINY, digests, options, write_files
from tests.scale.s3 import Server, serving

from tubelet.encoder.model import Encoder
from tubelet.scale.local import run
from tubelet.scale.options import EncodeOptions
from tubelet.scale.plan import Plan, make_plan
from tubelet.scale.store import Store, open_store
from tubelet.weights.load import load_encoder, untrained
from tubelet.weights.save import save_encoder

Begun = Callable[..., tuple[Plan, Store]]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoder(untrained(TINY, seed=5), tmp_path_factory.mktemp("weights") / "tiny", "packing")


@pytest.fixture(scope="session")
def encoder(model: Path) -> Encoder:
    return load_encoder(model)


@pytest.fixture(scope="session")
def sixty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 good files, 10 broken ones of 5 kinds."""
    return write_files(tmp_path_factory.mktemp("sixty"))


@pytest.fixture(scope="session")
def wanted(model: Path, encoder: Encoder) -> EncodeOptions:
    return options(model, encoder)


@pytest.fixture
def begun(tmp_path: Path, sixty: Path, wanted: EncodeOptions) -> Begun:
    """A new plan of the sixty files."""

    def begin(name: str = "out") -> tuple[Plan, Store]:
        store = open_store(tmp_path / name)
        return make_plan([str(sixty)], wanted, store, workers=2), store

    return begin


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, sixty: Path, wanted: EncodeOptions) -> tuple[Plan, Store]:
    """An uninterrupted run in one process."""
    store = open_store(tmp_path_factory.mktemp("whole") / "out")
    plan = make_plan([str(sixty)], wanted, store, workers=2)
    assert {report.state for report in run(store)} == {"done"}
    return plan, store


@pytest.fixture(scope="session")
def expected(whole: tuple[Plan, Store]) -> dict[int, dict[str, str]]:
    """The sha256 of every tensor of every shard of that run."""
    return digests(*whole)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def s3(s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """An S3 server, which addresses that begin with s3:// now mean."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    return s3_server
