"""LaViDa's way from a picture to rows, against a twin of Pillow, transformers' SigLIP, torch's pools and slices."""

import json
import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from safetensors.torch import save_file
from tests.pixels.pillow_views import views_by_pillow
from torch import Tensor, nn

import tubelet
from tubelet import Clip
from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError, ShapeError
from tubelet.families.catalogue import require_variant
from tubelet.language.placing.place import place
from tubelet.language.placing.rules import TokenIds
from tubelet.language.project.projector import Projector
from tubelet.language.vlm.lavida import LAVIDA_TOWER, FrontEnd, ViewFeatures
from tubelet.packed import Packed
from tubelet.pixels.patchify import normalise, unpatchify
from tubelet.pixels.views import PageCrops, Pyramid, ViewRule, Views
from tubelet.pixels.views_plan import LAVIDA, Pool
from tubelet.reduce.blank import blank_rows
from tubelet.reduce.join import pooled_views
from tubelet.reduce.relevance import in_joint_space
from tubelet.reduce.select import select
from tubelet.reduce.shirg import shirg

SIDE, PATCH, DEPTH, WIDTH = 60, 14, 3, 24  # 60 pixels are 4.3 patches: a convolution leaves the rest
PINPOINTS = ((120, 60), (60, 120), (120, 120), (60, 180), (180, 60))
RULE = ViewRule(SIDE, PINPOINTS, pool="bilinear", join="unpad")
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def tower(tmp_path_factory: pytest.TempPathFactory) -> tuple[hf.SiglipVisionModel, Encoder]:
    torch.manual_seed(0)
    model = hf.SiglipVisionModel(hf.SiglipVisionConfig(**TOWER, image_size=SIDE, patch_size=PATCH)).eval()
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.1)
    folder = tmp_path_factory.mktemp("tower")
    model.save_pretrained(folder)
    return model, tubelet.load_encoder(folder)


def projector() -> Projector:
    torch.manual_seed(1)
    return tubelet.language.build_projector("mlp2x_gelu", 32, WIDTH)


NEWLINE = torch.linspace(-1, 1, WIDTH)


def front_of(encoder: Encoder, rule: ViewRule = RULE) -> FrontEnd:
    newline = NEWLINE if rule.join == "unpad" else None
    return FrontEnd(deepcopy(encoder), projector(), rule, depth=DEPTH, newline=newline).requires_grad_(False)


def picture(height: int, width: int, seed: int = 0) -> Clip:
    pixels = np.random.default_rng(seed).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    return Clip(pixels, (0.0,))


# ---- the twin: nothing of this project but weights


def normalised(pixels: np.ndarray) -> tuple[Tensor, int, int]:
    """Views (V, 3, S, S) from -1 to 1, and rows and columns of tiles."""
    views, (rows, cols) = views_by_pillow(pixels, SIDE, PINPOINTS)
    return torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2).float() / 255 * 2 - 1, rows, cols


def rows_by_twin(
    model: hf.SiglipVisionModel, mlp: nn.Module, pixels: np.ndarray, pool: Pool | None, join: str
) -> Tensor:
    views, tile_rows, tile_cols = normalised(pixels)
    height, width = pixels.shape[:2]
    with torch.no_grad():
        states = model(views, output_hidden_states=True).hidden_states
        x = mlp(states[DEPTH])
    side = SIDE // PATCH
    grid = x.view(len(x), side, side, -1).permute(0, 3, 1, 2)
    if pool == "bilinear":
        grid = F.interpolate(grid, size=[math.ceil(side / 2)] * 2, mode="bilinear")
    elif pool is not None:
        grid = (F.avg_pool2d if pool == "average" else F.max_pool2d)(grid, 2)
    flat = grid.flatten(2).transpose(1, 2)
    if join == "flat":
        return flat.flatten(0, 1)
    d, s = grid.shape[1:3]
    tiles = grid[1:].view(tile_rows, tile_cols, d, s, s).permute(2, 0, 3, 1, 4).reshape(d, tile_rows * s, tile_cols * s)
    if join == "unpad":
        rows, cols = tiles.shape[1:]
        if width / height > cols / rows:
            drop = (rows - int(height * (cols / width))) // 2
            tiles = tiles[:, drop : rows - drop]
        else:
            drop = (cols - int(width * (rows / height))) // 2
            tiles = tiles[:, :, drop : cols - drop]
        tiles = torch.cat([tiles, NEWLINE[:, None, None].expand(-1, tiles.shape[1], 1)], dim=2)
    return torch.cat([flat[0], tiles.flatten(1).T])


def lavida_folder(model: hf.SiglipVisionModel, folder: Path, **config: object) -> Path:
    """A LaViDa checkpoint's front end: a tower that has lost its last layer and its head, projector and newline."""
    state = {
        f"model.vision_tower.vision_tower.vision_model.{name}": tensor.clone()
        for name, tensor in model.state_dict().items()
        if not name.startswith((f"encoder.layers.{DEPTH}.", "head."))
    }
    state |= {f"model.mm_projector.{name}": tensor for name, tensor in projector().state_dict().items()}
    state |= {"model.image_newline": NEWLINE, "model.transformer.wte.weight": torch.zeros(5, WIDTH)}
    said = {
        "model_type": "llava_llada",
        "mm_projector_type": "mlp2x_gelu",
        "image_aspect_ratio": "anyres",
        "image_grid_pinpoints": [[w, h] for h, w in PINPOINTS],
        "mm_patch_merge_type": "spatial_unpad",
        "mm_spatial_pool_stride": 2,
        "mm_spatial_pool_mode": "bilinear",
    }
    folder.mkdir(exist_ok=True)
    save_file(state, str(folder / "model.safetensors"))
    (folder / "config.json").write_text(json.dumps(said | config), encoding="utf-8")
    return folder


def test_the_front_end_of_a_checkpoint_is_read_alone(tower: tuple[hf.SiglipVisionModel, Encoder], tmp_path: Path):
    model, encoder = tower
    short = replace(encoder.config, layers=DEPTH, pool=False)
    front = FrontEnd.from_pretrained(lavida_folder(model, tmp_path / "m"), tower=short)
    assert (front.rule, front.depth) == (RULE, DEPTH)
    clips = [picture(*size, seed=n) for n, size in enumerate(SIZES)]
    with torch.no_grad():
        assert front(clips).equal(front_of(encoder)(clips))
    assert (LAVIDA_TOWER.layers, LAVIDA_TOWER.pool, LAVIDA_TOWER.hidden) == (26, False, 1152)
    for n, change in enumerate(({"image_aspect_ratio": "pad"}, {"mm_spatial_pool_mode": "sum"}, {"auto_map": {}})):
        with pytest.raises(ConfigError):
            FrontEnd.from_pretrained(lavida_folder(model, tmp_path / str(n), **change), tower=short)


SIZES = [(120, 120), (75, 125), (90, 40), (30, 200), (43, 61)]


@pytest.mark.parametrize("join", ["flat", "spatial", "unpad"])
@pytest.mark.parametrize("pool", ["bilinear", "average", "max", None])
def test_rows_equal_a_twin_of_other_libraries(
    tower: tuple[hf.SiglipVisionModel, Encoder], pool: Pool | None, join: str
):
    model, encoder = tower
    front = front_of(encoder, replace(RULE, pool=pool, join=join))
    clips = [picture(*size, seed=n) for n, size in enumerate(SIZES)]
    got = front(clips).check(finite=True)
    mlp = nn.Sequential(nn.Linear(32, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))
    mlp.load_state_dict(front.projector.state_dict())
    expected = [rows_by_twin(model, mlp, clip.frames[0], pool, join) for clip in clips]
    counts = [sum(n for n, i in zip(got.lengths, got.items, strict=True) if i.picture == k) for k in range(len(clips))]
    assert counts == [len(x) for x in expected]
    torch.testing.assert_close(got.x, torch.cat(expected), atol=2e-5, rtol=1e-4)


def test_the_projector_reads_a_state_without_a_norm_and_scores_come_from_the_whole_tower(
    tower: tuple[hf.SiglipVisionModel, Encoder],
):
    model, encoder = tower
    front = front_of(encoder)
    clip = picture(75, 125)
    with torch.no_grad():
        seen = front.features(front.patchify([clip]))
        out = model(normalised(clip.frames[0])[0], output_hidden_states=True)
    torch.testing.assert_close(seen.rows.x, out.hidden_states[DEPTH].flatten(0, 1), atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(seen.scoring.x, out.last_hidden_state.flatten(0, 1), atol=2e-5, rtol=1e-4)


def test_chosen_rows_are_projected_joined_and_placed(tower: tuple[hf.SiglipVisionModel, Encoder]):
    front = front_of(tower[1])
    text = torch.randn(3, 32, generator=torch.Generator().manual_seed(5))

    def choose(seen: ViewFeatures) -> Packed:
        return shirg(seen.rows, text, budget=20, features=in_joint_space(front.encoder, seen.scoring))

    clips = [picture(75, 125), picture(30, 200, seed=1)]
    with torch.no_grad():
        got = front(clips, choose)
        kept = choose(front.features(front.patchify(clips)))
        expected = front.projector(kept)
    newline = (got.x == NEWLINE).all(dim=1)
    assert sum(kept.lengths) == int((~newline).sum()) == 40  # the budget, and nothing cut from it
    assert sorted(map(tuple, got.x[~newline].tolist())) == sorted(map(tuple, expected.x.tolist()))
    assert bool(blank_rows(got)[newline].all()) and not bool(blank_rows(kept).any())
    ids = torch.tensor([1, *[9] * sum(got.lengths), 2])
    assert torch.equal(place(got, ids, TokenIds(image=9)).inputs_embeds[1:-1], got.x)


def test_views_of_one_picture_do_not_change_those_of_another(tower: tuple[hf.SiglipVisionModel, Encoder]):
    front = front_of(tower[1])
    clips = [picture(75, 125), picture(90, 40, seed=1)]
    together = front(clips)
    for n, clip in enumerate(clips):
        alone = front([clip])
        own = [i for i, item in enumerate(together.items) if item.picture == n]
        torch.testing.assert_close(together.reorder(own).x, alone.x, atol=1e-5, rtol=1e-5)


def test_a_clip_gives_one_view_a_frame_and_a_newline(tower: tuple[hf.SiglipVisionModel, Encoder]):
    front = front_of(tower[1])
    frames = np.random.default_rng(3).integers(0, 256, (5, 40, 70, 3), dtype=np.uint8)
    got = front([Clip(frames, tuple(map(float, range(5))), is_video=True)])
    assert got.lengths == (5 * 4 + 1,) and torch.equal(got.x[-1], NEWLINE)


@pytest.mark.parametrize("rule", [Pyramid(((112, 56), (112, 112))), PageCrops(84, overlap=0.2)])
def test_views_of_other_sizes_go_through_the_tower_with_a_resized_table(
    tower: tuple[hf.SiglipVisionModel, Encoder], rule: Views
):
    model, encoder = tower
    recipe = encoder.pixels
    p = tubelet.patchify([picture(75, 125), picture(130, 30, seed=1)], recipe, views=rule)
    views = unpatchify(normalise(p, recipe), recipe)
    with torch.no_grad():
        got = encoder(p).unpack()
        for view, rows in zip(views, got, strict=True):
            out = model(view.permute(0, 3, 1, 2), interpolate_pos_encoding=True)
            torch.testing.assert_close(rows, out.last_hidden_state[0], atol=2e-5, rtol=1e-4)


def test_every_weight_learns(tower: tuple[hf.SiglipVisionModel, Encoder]):
    front = FrontEnd(deepcopy(tower[1]), projector(), RULE, depth=DEPTH, newline=NEWLINE)
    front([picture(75, 125)]).x.square().sum().backward()
    trained = {name for name, p in front.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert {"newline", "projector.0.weight", "encoder.patch.weight"} <= trained


@pytest.mark.parametrize(
    ("rule", "options"),
    [
        (RULE, {"depth": 5, "newline": NEWLINE}),
        (RULE, {"depth": -1, "newline": NEWLINE}),
        (RULE, {"depth": 3}),
        (RULE, {"depth": 3, "newline": torch.ones(5)}),
        (replace(RULE, join="flat"), {"depth": 3, "newline": NEWLINE}),
    ],
)
def test_parts_that_do_not_fit_are_refused(tower: tuple[hf.SiglipVisionModel, Encoder], rule: ViewRule, options: dict):
    with pytest.raises(ConfigError):
        FrontEnd(tower[1], projector(), rule, **options)
    with pytest.raises(ConfigError):
        FrontEnd(tower[1], tubelet.language.build_projector("linear", 31, 8), RULE, depth=3, newline=torch.ones(8))


def test_pooling_rows_that_were_chosen_is_no_silent_step(tower: tuple[hf.SiglipVisionModel, Encoder]):
    front = front_of(tower[1])
    seen = front.features(front.patchify([picture(75, 125)]))
    few = select(seen.rows, seen.rows.x[:, 0], budget=7)

    with pytest.raises(ShapeError):
        pooled_views(few, RULE)


def test_the_real_sizes_are_five_views_of_729(tmp_path: Path):
    _, config = require_variant("siglip_so400m_patch14_384")
    small = replace(config, hidden=16, layers=2, heads=2, mlp=16)
    encoder = tubelet.untrained(small)
    front = FrontEnd(encoder, tubelet.language.build_projector("mlp2x_gelu", 16, 8), depth=1, newline=torch.zeros(8))
    clips = [picture(768, 768)]
    assert sum(front.features(front.patchify(clips)).rows.lengths) == 3645 and front.rule == LAVIDA
    assert sum(front(clips).lengths) == 1008
