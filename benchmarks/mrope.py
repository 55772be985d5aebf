"""Position ids of prompts with many images or long videos: tubelet against transformers' get_rope_index.

    python benchmarks/mrope.py            writes results/mrope.json
    python benchmarks/mrope.py --quick    three rounds, written as mrope_quick.json

One prompt with 512 images of Qwen2.5-VL, of 64 and of 256 tokens each and of mixed sizes; a batch of 8 videos of 64
rows of time. Positions must be equal before anything is timed, so tubelet counts in its transformers-5 mode:
transformers 5.23 places text behind a video differently from the reference. `place` is tubelet with the rows in hand,
which it puts into the embeddings too. A turn is ten prompts, as a loader would count them: one takes less time than the
caches need to fill again after another's turn.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel

import harness
import tubelet
from tubelet.language.placing.mrope import rope_index
from tubelet.language.placing.place import place
from tubelet.language.placing.rules import QWEN, QWEN2_5_VL

RULE = replace(QWEN2_5_VL, arithmetic="float32", compat="transformers-5")
MIXED = ((8, 8), (16, 12), (20, 34), (46, 34))


@dataclass(frozen=True)
class Settings:
    rounds: int
    images: int = 512
    videos: int = 8
    rows_of_time: int = 64
    prompts: int = 10  # in a turn


@dataclass(frozen=True)
class Prompt:
    ids: Tensor
    kinds: Tensor
    given: dict[str, Tensor]

    @property
    def tokens(self) -> int:
        return self.ids.numel()


def images(grids: list[tuple[int, int]]) -> Prompt:
    """One prompt with an image of each size in patches, three tokens of text between two."""
    runs = [[QWEN.start, *[QWEN.image] * (h * w // 4), QWEN.end, 7] for h, w in grids]
    ids = torch.tensor([[token for run in runs for token in run]])
    return Prompt(ids, (ids == QWEN.image).int(), {"image_grid_thw": torch.tensor([(1, h, w) for h, w in grids])})


def videos(count: int, t: int) -> Prompt:
    """A batch of prompts with one video each, 0.7 s a row of time."""
    assert QWEN.video is not None
    one = [QWEN.start, *[QWEN.video] * (t * 14 * 20 // 4), QWEN.end, 7, 8]
    ids = torch.tensor([one] * count)
    given = {"video_grid_thw": torch.tensor([[t, 14, 20]] * count), "second_per_grid_ts": torch.full((count,), 0.7)}
    return Prompt(ids, 2 * (ids == QWEN.video).int(), given)


def transformers_model() -> Qwen2_5_VLModel:
    """The class that counts, without weights."""
    config: Any = Qwen2_5_VLConfig()
    config.vision_config.depth = config.text_config.num_hidden_layers = 1
    config.vision_config.tokens_per_second = 2
    with torch.device("meta"):
        return Qwen2_5_VLModel(config)


def compare(name: str, prompt: Prompt, model: Any, settings: Settings) -> dict[str, Any]:
    """Equality first, then turns. The times are those of a whole turn."""

    def theirs() -> Any:
        return model.get_rope_index(prompt.ids, mm_token_type_ids=prompt.kinds, **prompt.given)

    def ours() -> Any:
        return rope_index(prompt.ids, QWEN, RULE, **prompt.given)  # pyright: ignore[reportArgumentType]

    assert torch.equal(ours().position_ids, theirs()[0])
    assert torch.equal(ours().rope_deltas, theirs()[1])
    contenders: dict[str, Callable[[], object]] = {"tubelet": ours, "transformers": theirs}
    if "image_grid_thw" in prompt.given:
        contenders["tubelet place, embeddings too"] = placing(prompt)
    turns = {each: several(run, settings.prompts) for each, run in contenders.items()}
    timings = harness.measure(turns, rounds=settings.rounds, warmup=2, control="tubelet")
    harness.show(name, timings, ours="tubelet", per=settings.prompts, unit="prompt")
    return {"tokens": prompt.tokens, **harness.report(timings, ours="tubelet")}


def several(run: Callable[[], object], times: int) -> Callable[[], object]:
    """A turn of so many prompts."""

    def turn() -> None:
        for _ in range(times):
            run()

    return turn


def placing(prompt: Prompt) -> Callable[[], object]:
    """`place` with rows of 64 channels already there; positions must be the same."""
    grids = (prompt.given["image_grid_thw"] // torch.tensor([1, 2, 2])).tolist()
    items = [tubelet.Item.of(*grid, picture=i) for i, grid in enumerate(grids)]
    p = tubelet.pack([torch.zeros(item.grid.rows, 64) for item in items], items)
    want = rope_index(prompt.ids, QWEN, RULE, **prompt.given).position_ids  # pyright: ignore[reportArgumentType]
    assert torch.equal(place(p, prompt.ids, QWEN, rule=RULE).position_ids, want)
    return lambda: place(p, prompt.ids, QWEN, rule=RULE)


def main() -> None:
    parser = argparse.ArgumentParser(description="Position ids, against transformers.")
    parser.add_argument("--quick", action="store_true", help="three rounds, written as mrope_quick.json")
    quick = parser.parse_args().quick
    settings = Settings(rounds=3 if quick else 15)
    torch.set_num_threads(1)
    n, model = settings.images, transformers_model()
    cases = {
        f"{n} images of 64 tokens": images([(16, 16)] * n),
        f"{n} images of 256 tokens": images([(32, 32)] * n),
        f"{n} images of mixed sizes": images([MIXED[i % len(MIXED)] for i in range(n)]),
        f"{settings.videos} videos of {settings.rows_of_time} x 70 tokens": videos(
            settings.videos, settings.rows_of_time
        ),
    }
    results = {name: compare(name, prompt, model, settings) for name, prompt in cases.items()}
    print(f"\nwritten: {harness.save('mrope_quick' if quick else 'mrope', results, settings=settings).name}")


if __name__ == "__main__":
    main()
