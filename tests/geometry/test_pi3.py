"""The packed Pi3 against what upstream's own code gave, its published layout, and scenes of every kind in one pack.

pi3_upstream.safetensors was made by yyfz/Pi3@9fa3ddb on a CPU: its classes at the sizes below, weights and frames by
`values`, every fifth pixel of what it gave.
"""

import hashlib
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.geometry.test_vggt import packed

from tubelet.errors import ConfigError, KeyMismatch, NotFinite, ShapeError
from tubelet.geometry.pi3 import PI3, Pi3, Pi3Config, SeenPoints, pi3_config, untrained_pi3
from tubelet.geometry.pi3_keys import load_pi3, to_theirs
from tubelet.geometry.vggt import vggt_config
from tubelet.pixels.recipe import IMAGENET_MEAN, IMAGENET_STD

TINY = pi3_config(layers=2, width=32, heads=2, patch_layers=1, table=3, decoder_layers=2, pose_out=16)
SCENES = {"a": (3, 3, 2), "b": (2, 2, 4), "c": (1, 3, 3)}  # frames, patches from top to bottom, from left to right
UPSTREAM = load_file(Path(__file__).with_name("pi3_upstream.safetensors"))


def values(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Values from -1 to 1 that follow from the name and the number of the place alone."""
    start = sum((i + 1) * ord(c) for i, c in enumerate(name))
    k = (torch.arange(math.prod(shape)) * 7919 + start * 104729) % 65521
    return ((k * k + 12345) % 65521 / 65520 * 2 - 1).float().view(shape)


def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    v = values(name, shape)
    if (len(shape) == 1 and name.endswith("weight")) or name.endswith("gamma"):
        return 1 + 0.3 * v
    if len(shape) == 1:
        return 0.2 * v
    if name.endswith("token") or "register" in name or "pos_embed" in name:
        return 0.5 * v
    return v * (3 / math.prod(shape[1:])) ** 0.5 * (0.2 if name.startswith("point_head") else 1)


def tensors(config: Pi3Config = TINY) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        shapes = {name: tuple(x.shape) for name, x in to_theirs(Pi3(config).state_dict(), config).items()}
    return {name: weight(name, shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pi3") / "model.safetensors"
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
    save_file({**tensors(), "image_mean": mean, "image_std": std}, str(path))
    return path


@pytest.fixture(scope="module")
def model(file: Path) -> Pi3:
    return load_pi3(file, config=TINY)


def frames(name: str) -> torch.Tensor:
    n, h, w = SCENES[name]
    x = (values(f"frames {name}", (1, n, 3, 14 * h, 14 * w))[0] + 1) / 2
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (x - mean) / std


def test_scenes_of_every_size_in_one_pack_are_what_upstream_gives_of_each(model: Pi3):
    with torch.no_grad():
        got = model.run(packed(*map(frames, SCENES)))
    poses = got.cam_to_world.split([n for n, _, _ in SCENES.values()])
    for i, name in enumerate(SCENES):
        assert torch.allclose(poses[i], UPSTREAM[f"{name}.cam_to_world"], atol=5e-6), (
            name
        )  # a norm of q and k with eps 1e-6: 1e-5
        for mine, theirs in ((got.local, "local"), (got.points(), "points")):
            expected = UPSTREAM[f"{name}.{theirs}"]
            assert torch.allclose(mine[i][:, ::5, ::5], expected, atol=1e-4, rtol=1e-4), (name, theirs)
        assert torch.allclose(got.confidence[i][:, ::5, ::5], UPSTREAM[f"{name}.conf"].sigmoid(), atol=1e-5), name
    spread = torch.cat([x.flatten() for x in got.confidence])
    assert spread.std() > 0.2
    assert min(float(x[..., 2].min()) for x in got.local) > 0


def test_frames_in_another_order_give_the_same_in_that_order(model: Pi3):
    x, order = frames("a"), [2, 0, 1]
    with torch.no_grad():
        got, turned = model.run(packed(x)), model.run(packed(x[order]))
    assert torch.allclose(turned.cam_to_world, got.cam_to_world[order], atol=1e-5)
    assert torch.allclose(turned.local[0], got.local[0][order], atol=1e-4)
    assert not torch.allclose(got.cam_to_world[0], got.cam_to_world[1], atol=1e-3)


def test_stills_make_a_scene_and_a_scene_sees_only_itself(model: Pi3):
    x = frames("a")
    with torch.no_grad():
        video = model.run(packed(x))
        stills = model.run(packed(*x.split(1), frames("c")), scenes=[3, 1])
    assert torch.allclose(torch.cat(stills.local[:3]), video.local[0], atol=1e-5)
    assert torch.allclose(stills.cam_to_world[:3], video.cam_to_world, atol=1e-5)
    assert stills.scenes == (3, 1)


def test_every_weight_is_learned_and_a_pack_has_the_gradients_of_its_scenes(model: Pi3):
    def loss(got: SeenPoints) -> torch.Tensor:
        parts = [*got.local, *got.confidence, *(x[..., None] for x in got.confidence)]
        weighed = (torch.linspace(0.5, 1.5, x.numel()).view(x.shape) for x in parts)
        return sum(((a * b).sum() for a, b in zip(parts, weighed, strict=True)), got.cam_to_world[:, :3].sum())

    def gradients(*names: str) -> dict[str, torch.Tensor]:
        model.zero_grad()
        loss(model.run(packed(*map(frames, names)))).backward()
        return {name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None}

    one, other, both = gradients("a"), gradients("b"), gradients("a", "b")
    assert both.keys() == dict(model.named_parameters()).keys()
    assert [name for name, x in both.items() if not x.any()] == []
    for name, x in both.items():
        assert torch.allclose(x, one[name] + other[name], atol=1e-3, rtol=1e-3), name
    model.zero_grad()


def test_names_shapes_and_size_are_the_published_ones():
    with torch.device("meta"):
        whole = Pi3(PI3)
    own = to_theirs(whole.state_dict(), PI3)
    shapes = {name: list(x.shape) for name, x in own.items()} | {"image_mean": [1, 3, 1, 1], "image_std": [1, 3, 1, 1]}
    lines = "\n".join(sorted(f"{name} {shape}" for name, shape in shapes.items()))
    assert len(shapes) == 1210
    assert hashlib.sha256(lines.encode()).hexdigest()[:16] == "c4d74632e24ba616"  # of upstream's own Pi3()
    assert sum(x.numel() for x in whole.parameters()) == 958_696_732


def test_a_file_comes_back(model: Pi3):
    back = to_theirs(model.state_dict(), TINY)
    own = tensors()
    assert back.keys() == own.keys()
    assert all(torch.equal(back[k], own[k]) for k in own)


def test_layers_take_the_type_asked_for_and_heads_stay_float32(file: Path):
    half = load_pi3(file, config=TINY, dtype=torch.bfloat16)
    kinds = {name.split(".")[0]: x.dtype for name, x in half.named_parameters()}
    assert kinds["aggregator"] == kinds["points"] == torch.bfloat16
    assert kinds["pose"] == kinds["point_map"] == kinds["confidence_map"] == torch.float32
    with torch.no_grad():
        got = half.run(packed(frames("b")))
    assert got.cam_to_world.dtype == got.local[0].dtype == torch.float32
    assert torch.allclose(got.cam_to_world, UPSTREAM["b.cam_to_world"], atol=0.2)


def test_the_focal_length_is_the_one_that_fits_the_points():
    h, w, focal = 28, 42, (50.0, 40.0)  # of rows, of columns
    y, x = torch.meshgrid(torch.arange(h) - h / 2, torch.arange(w) - w / 2, indexing="ij")
    z = 1 + torch.rand(2, h, w, generator=torch.Generator().manual_seed(0))
    local = torch.stack([x / focal[1] * z, y / focal[0] * z, z], dim=-1)
    pose = torch.eye(4).repeat(2, 1, 1)
    pose[1, 0, 3] = 3.0
    got = SeenPoints(pose, (local,), (z,), (1,)).cameras(["room"])[0]
    assert torch.allclose(got.K[:, [1, 0], [1, 0]], torch.tensor([focal, focal]), atol=1e-3)
    assert (got.size, got.world) == ((h, w), "room")
    assert got.world_to_cam[1, 0, 3] == -3.0
    assert got.bounded is not None and not got.bounded.any()
    local[1, ..., 0] *= -1  # left is right: no focal length above 0 fits
    turned = SeenPoints(pose, (local,), (z,), (1,)).cameras(["room"])[0]
    assert turned.bounded is not None and turned.bounded.tolist() == [False, True]
    assert turned.K[1, 0, 0] > 0 and turned.K[1, 1, 1] == got.K[1, 1, 1]


# ---- bad input


def test_what_does_not_fit_is_told(model: Pi3, file: Path, tmp_path: Path):
    p = packed(frames("a"), frames("b"))
    with pytest.raises(ShapeError, match="scenes"):
        model.run(p, scenes=[3])
    with torch.no_grad():
        got = model.run(p, scenes=[2])
    with pytest.raises(ShapeError, match="several sizes"):
        got.cameras(["room"])
    with pytest.raises(ShapeError, match="names for 1 scenes"):
        got.cameras([])
    with pytest.raises(ShapeError, match="every row"):
        model.run(p.keep(torch.arange(3)))
    with pytest.raises(KeyMismatch):
        load_pi3(file, config=pi3_config(layers=1, width=32, heads=2, patch_layers=1, table=3))
    save_file({**tensors(), "conf_head.proj.bias": torch.full((196,), torch.nan)}, str(tmp_path / "model.safetensors"))
    with pytest.raises(NotFinite, match=r"conf_head\.proj\.bias"):
        load_pi3(tmp_path, config=TINY)
    with pytest.raises(ConfigError, match="where they stand"):
        Pi3Config(vggt_config(layers=2, width=32, heads=2, patch_layers=1), TINY.decoder)


def test_pixels_that_are_nan_name_the_frame(model: Pi3):
    """Frames of a scene see each other: the first of that scene is named, and the scene before it is well."""
    p = packed(frames("a"), frames("b"))
    p.x[-1] = torch.nan
    with torch.no_grad(), pytest.raises(NotFinite, match="NaN or infinity") as caught:
        model.run(p)
    assert caught.value.item == 3


def test_random_weights_say_so():
    model = untrained_pi3(TINY)
    assert model.untrained
    with torch.no_grad():
        got = model.run(packed(frames("a")))
    assert torch.allclose(got.cam_to_world[:, :3, :3].det(), torch.ones(3), atol=1e-5)
