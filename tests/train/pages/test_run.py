"""Stages: a stopped one goes on as if it had not stopped, the next begins with its weights, a reader comes out."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tubelet.errors import ConfigError
from tubelet.train.config import OptimizerConfig, TrainConfig, read_config
from tubelet.train.pages.fonts import Fonts
from tubelet.train.pages.page import PageRecipe
from tubelet.train.pages.reader import ReaderConfig
from tubelet.train.pages.run import StageConfig, train_reader, trained_reader

SMALL = ReaderConfig(hidden=64, heads=2, layers=1, mlp=64, text_layers=3, text_mlp=64)
PAGES = (PageRecipe(seed=1, sizes=((96, 128),), questions=2), PageRecipe(seed=2, sizes=((96, 96),), questions=0))
EXAMPLES = Path(__file__).parents[3] / "examples" / "reader"


def stage(folder: Path, steps: int, **more: object) -> StageConfig:
    optimizer = OptimizerConfig("muon", lr=1e-3)
    train = TrainConfig(budget=2, steps=steps, folder=folder, ema=0.9, device="cpu", optimizer=optimizer)
    return StageConfig(replace(train, **more), PAGES, model=SMALL)  # pyright: ignore[reportArgumentType]


def weights(at: StageConfig) -> list[torch.Tensor]:
    return list(trained_reader(at).state_dict().values())


def test_a_stopped_stage_goes_on(fonts: Fonts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole, broken = stage(tmp_path / "a", 4), stage(tmp_path / "b", 4)
    assert train_reader(whole, fonts).step == 4
    from tubelet.train.pages import run

    made, count = run.make_batch, 0

    def fails_once(*args: object, **given: object) -> object:
        nonlocal count
        count += 1
        if count == 3:
            raise KeyboardInterrupt
        return made(*args, **given)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(run, "make_batch", fails_once)
    saves = replace(broken, train=replace(broken.train, save=replace(broken.train.save, every_steps=1)))
    with pytest.raises(KeyboardInterrupt):
        train_reader(saves, fonts)
    assert train_reader(saves, fonts).step == 4
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(broken), strict=True))


def test_steps_without_questions_under_ddp(fonts: Fonts, tmp_path: Path):
    """The language model rests in every second step."""
    one, ddp = stage(tmp_path / "one", 4), stage(tmp_path / "ddp", 4, strategy="ddp")
    assert train_reader(one, fonts).step == train_reader(ddp, fonts).step == 4
    assert all(torch.equal(a, b) for a, b in zip(weights(one), weights(ddp), strict=True))


def test_a_stage_begins_with_the_weights_of_another(fonts: Fonts, tmp_path: Path):
    first = stage(tmp_path / "first", 1)
    train_reader(first, fonts)
    second = stage(tmp_path / "second", 1, init=tmp_path / "first", seed=9)
    second = replace(second, train=replace(second.train, optimizer=OptimizerConfig("adamw", lr=1e-12), ema=None))
    train_reader(second, fonts)
    before = trained_reader(first, mean=False).state_dict().values()
    after = trained_reader(second).state_dict().values()
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(before, after, strict=True))


def test_other_fonts_than_the_stages_are_refused(fonts: Fonts, tmp_path: Path):
    with pytest.raises(ConfigError, match="other fonts"):
        train_reader(replace(stage(tmp_path, 1), fonts="0" * 64), fonts)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda p: p.stem)
def test_the_stages_that_are_shipped_can_be_read(path: Path):
    read = read_config(StageConfig, path)
    assert read.train.optimizer.kind == "muon"
    assert all("ticket" not in dict(recipe.mix) for recipe in read.pages)
    assert not any(recipe.held_fonts or recipe.held_words for recipe in read.pages)
