"""The packed VGGT against a plain twin, its published layout, and scenes of every kind in one pack."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.geometry import plain_vggt

from tubelet.errors import ConfigError, KeyMismatch, NotFinite, ShapeError
from tubelet.geometry.heads import CameraConfig, DPTConfig
from tubelet.geometry.vggt import VGGT, VGGT_1B, VGGTConfig, untrained_vggt, vggt_config
from tubelet.geometry.vggt_keys import load_vggt, to_theirs
from tubelet.packed import Item, Packed, pack

LAYERS, HEADS, WIDTH = 2, 2, 32


def tiny(**heads: object) -> VGGTConfig:
    return vggt_config(layers=LAYERS, width=WIDTH, heads=HEADS, patch_layers=1, table=3, **heads)  # pyright: ignore


def full() -> VGGTConfig:
    dpt = {"layers": (0, 1, 1, 0), "channels": (8, 8, 8, 8), "features": 8}
    return tiny(
        camera=CameraConfig(2 * WIDTH, 1, 2),
        depth=DPTConfig(2 * WIDTH, **dpt),
        points=DPTConfig(2 * WIDTH, out=4, activation="inv_log", **dpt),
    )


def random_vggt(config: VGGTConfig) -> VGGT:
    """Every weight random: nothing is hidden by an identity."""
    model = untrained_vggt(config)
    g = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for x in model.parameters():
            x.add_(torch.randn(x.shape, generator=g) * (0.2 if x.ndim == 1 else 0.08))
    return model


def images(s: int, h: int = 3, w: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randn(s, 3, 14 * h, 14 * w, generator=torch.Generator().manual_seed(seed))


def packed(*videos: torch.Tensor) -> Packed:
    rows, items = [], []
    for x in videos:
        s, h, w = len(x), x.shape[2] // 14, x.shape[3] // 14
        rows.append(x.view(s, 3, h, 14, w, 14).permute(0, 2, 4, 1, 3, 5).reshape(s * h * w, -1))
        items.append(Item.of(s, h, w))
    return pack(rows, items)


def test_every_depth_and_pose_is_the_plain_twin_s_and_so_are_gradients():
    model = random_vggt(tiny(camera=CameraConfig(2 * WIDTH, 1, 2)))
    theirs = {k: x.detach().double().requires_grad_() for k, x in to_theirs(model.state_dict(), model.config).items()}
    x = images(3)
    g = torch.Generator().manual_seed(1)
    draw = [torch.randn(3, 14, 2 * WIDTH, generator=g) for _ in range(LAYERS)]
    pose_draw = torch.randn(3, 9, generator=g)
    slow = plain_vggt.aggregate(x.double(), theirs, LAYERS, HEADS, 1)
    slow_pose = plain_vggt.poses(slow[-1][:, 0], theirs, 1, 2)
    got = model.run(packed(x), keep=range(LAYERS))
    fast = [torch.cat([got.special[i], got.kept[i].x.view(3, 9, -1)], dim=1) for i in range(LAYERS)]
    for a, b in zip(fast, slow, strict=True):
        assert torch.allclose(a.double(), b, atol=2e-5)
    assert torch.allclose(got.poses[-1].double(), slow_pose, atol=2e-5)
    sum((a * b).sum() for a, b in zip(fast, draw, strict=True)).add((got.poses[-1] * pose_draw).sum()).backward()
    sum((a * b).sum() for a, b in zip(slow, draw, strict=True)).add((slow_pose * pose_draw).sum()).backward()
    gradients = {name: x.grad for name, x in model.named_parameters()}
    assert all(x is not None for x in gradients.values())
    mine = to_theirs({k: x for k, x in gradients.items() if x is not None}, model.config)
    for name, value in theirs.items():
        assert value.grad is not None, name
        assert torch.allclose(mine[name].double(), value.grad, atol=2e-4, rtol=2e-3), name


def test_scenes_of_every_size_in_one_pack_are_each_by_itself():
    model = random_vggt(full())
    videos = [images(3, 3, 3, 1), images(1, 2, 4, 2), images(2, 4, 2, 3)]
    with torch.no_grad():
        both = model.run(packed(*videos), keep=[-1])
        alone = [model.run(packed(v), keep=[-1]) for v in videos]
    rows = both.kept[LAYERS - 1].unpack()
    for i, (one, row) in enumerate(zip(alone, rows, strict=True)):
        assert torch.allclose(one.kept[LAYERS - 1].x, row, atol=1e-5)
        assert torch.allclose(one.depth[0], both.depth[i], atol=1e-4)
        assert torch.allclose(one.points[0], both.points[i], atol=1e-4)
        assert both.depth[i].shape == both.points_confidence[i].shape == (len(videos[i]), *videos[i].shape[2:])
    assert torch.allclose(torch.cat([one.poses[-1] for one in alone]), both.poses[-1], atol=1e-5)
    cameras = both.cameras(["a", "b", "c"])
    assert [len(c) for c in cameras] == [3, 1, 2]
    assert [c.size for c in cameras] == [(42, 42), (28, 56), (56, 28)]
    assert [c.world for c in cameras] == ["a", "b", "c"]


def test_pictures_that_are_one_scene_are_a_video_of_them():
    model = random_vggt(tiny(camera=CameraConfig(2 * WIDTH, 1, 2)))
    x = images(3)
    with torch.no_grad():
        video = model.run(packed(x), keep=[-1])
        pictures = model.run(packed(*x.split(1)), keep=[-1], scenes=[3])
        apart = model.run(packed(*x.split(1)), keep=[-1])
    assert torch.allclose(video.kept[1].x, pictures.kept[1].x, atol=1e-6)
    assert torch.allclose(video.poses[-1], pictures.poses[-1], atol=1e-6)
    assert not torch.allclose(video.kept[1].x, apart.kept[1].x, atol=1e-3)
    assert len(pictures.cameras(["a"])[0]) == 3


def test_only_the_first_frame_is_known_by_its_place():
    model = random_vggt(tiny())
    x = images(4)
    with torch.no_grad():
        a = model(packed(x)).x.view(4, 9, -1)
        b = model(packed(x[[0, 3, 1, 2]])).x.view(4, 9, -1)
        c = model(packed(x[[1, 0, 2, 3]])).x.view(4, 9, -1)
    assert torch.allclose(a[[0, 3, 1, 2]], b, atol=1e-5)
    assert not torch.allclose(a[[1, 0, 2, 3]], c, atol=1e-3)


def test_nan_stays_in_its_scene():
    model = random_vggt(full())
    bad = images(2, seed=3)
    bad[1, 0, 0, 0] = float("nan")
    with torch.no_grad():
        good = model.run(packed(images(2)))
        both = model.run(packed(bad, images(2)))
    assert not both.poses[-1][:2].isfinite().any()
    assert torch.allclose(both.poses[-1][2:], good.poses[-1], atol=1e-5)
    assert torch.allclose(both.depth[1], good.depth[0], atol=1e-4)


def test_angles_stay_float32_in_half_precision():
    model = random_vggt(tiny())
    p = packed(images(2))
    with torch.no_grad():
        want = model(p).x
        half = model.to(torch.bfloat16)(p).x.float()
    assert torch.nn.functional.cosine_similarity(want.flatten(), half.flatten(), dim=0) > 0.999


def test_only_what_is_asked_for_runs_and_is_kept():
    model = random_vggt(full())
    p = packed(images(2))
    ran: list[int] = []
    hooks = [
        layer.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(model.aggregator.layers)
    ]
    found = model.run(p, keep=[0], heads=())
    assert ran == [0, 1]
    assert list(found.kept) == [0]
    assert found.poses == found.depth == found.points == ()
    for hook in hooks:
        hook.remove()
    with pytest.raises(ConfigError):
        found.cameras(["a"])


# ---- weights

MANIFEST = "7b09ee02"  # of the published names and shapes, without the track head's and the mask token


def published() -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = VGGT(VGGT_1B)
    return {name: tuple(x.shape) for name, x in to_theirs(model.state_dict(), VGGT_1B).items()}


def test_names_and_shapes_are_the_published_ones():
    own = published()
    lines = "\n".join(f"{name} {list(shape)}" for name, shape in sorted(own.items()))
    assert len(own) == 1402
    assert hashlib.sha256(lines.encode()).hexdigest()[:8] == MANIFEST
    total = sum(torch.Size(s).numel() for s in own.values()) + 1024  # the mask token
    assert total == 1_256_537_516 - 65_941_396


def save_tiny(path: Path, config: VGGTConfig) -> dict[str, torch.Tensor]:
    tensors = {k: x.contiguous() for k, x in to_theirs(random_vggt(config).state_dict(), config).items()}
    more = {"track_head.a": torch.zeros(2), "aggregator.patch_embed.mask_token": torch.zeros(1, WIDTH)}
    save_file({**tensors, **more}, str(path))
    return tensors


def test_a_file_comes_back_and_heads_not_asked_for_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = full()
    tensors = save_tiny(tmp_path / "model.safetensors", config)
    model = load_vggt(tmp_path, config=config)
    back = to_theirs(model.state_dict(), config)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[k], tensors[k]) for k in tensors)
    read: list[str] = []
    from tubelet.weights.tensors import TensorReader

    call = TensorReader.__call__

    def watched(self: TensorReader, key: str) -> torch.Tensor:
        read.append(key)
        return call(self, key)

    monkeypatch.setattr(TensorReader, "__call__", watched)
    part = load_vggt(tmp_path / "model.safetensors", config=config, heads=["camera"], dtype=torch.bfloat16)
    assert part.depth is None
    assert part.points is None
    assert part.camera is not None
    assert part.camera.fc1.weight.dtype == torch.float32
    assert part.aggregator.dtype == torch.bfloat16
    assert not [key for key in read if key.startswith(("depth_head", "point_head", "track_head"))]
    with torch.no_grad():
        assert part.run(packed(images(2))).poses[-1].dtype == torch.float32


def test_files_that_do_not_fit_are_told(tmp_path: Path):
    config = full()
    tensors = save_tiny(tmp_path / "a.safetensors", config)
    with pytest.raises(KeyMismatch):
        load_vggt(tmp_path / "a.safetensors")  # the published size
    with pytest.raises(ConfigError):
        load_vggt(tmp_path / "a.safetensors", config=config, heads=["track"])
    save_file({k: x for k, x in tensors.items() if k != "camera_head.embed_pose.bias"}, str(tmp_path / "b.safetensors"))
    with pytest.raises(KeyMismatch) as raised:
        load_vggt(tmp_path / "b.safetensors", config=config)
    assert raised.value.missing == ("camera_head.embed_pose.bias",)
    bad = tensors["camera_head.embed_pose.bias"] * float("nan")
    save_file({**tensors, "camera_head.embed_pose.bias": bad}, str(tmp_path / "c.safetensors"))
    with pytest.raises(NotFinite):
        load_vggt(tmp_path / "c.safetensors", config=config)


# ---- what cannot be


def test_what_cannot_be_is_told():
    model = random_vggt(full())
    p = packed(images(2, 2, 2), images(1, 2, 3))
    for wrong in ({"keep": [LAYERS]}, {"keep": [-LAYERS - 1]}, {"heads": ["track"]}):
        with pytest.raises(ConfigError):
            model.run(p, **wrong)  # pyright: ignore
    for scenes in ([1], [3], [2, 0]):
        with pytest.raises(ShapeError):
            model.run(p, scenes=scenes)
    with pytest.raises(ShapeError, match="several sizes"):
        model.run(p, scenes=[2]).cameras(["a"])
    with pytest.raises(ShapeError, match="names for"):
        model.run(p).cameras(["a"])
    dropped = p.keep(torch.tensor([0, 1, 2]))
    assert model.run(dropped, heads=["camera"]).frames == (1, 0)
    with pytest.raises(ShapeError):
        model.run(dropped)
    with pytest.raises(ShapeError):
        model.run(p.with_x(p.x[:, :5]))
    with pytest.raises(ConfigError):
        tiny(camera=CameraConfig(WIDTH))
    for spans in (("frame",), ("frame", "frame", "scene")):
        with pytest.raises(ConfigError):
            vggt_config(layers=2, width=32, heads=2, spans=spans)
