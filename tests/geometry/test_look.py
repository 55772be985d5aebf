"""From clips to a scene: sizes, choice of frames, heads, and every input that is none."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tubelet.errors import ConfigError, InputError, KeyMismatch, LimitError, NotFinite, ShapeError, WeightsError
from tubelet.geometry.branch import NETWORK
from tubelet.geometry.cameras import unproject
from tubelet.geometry.frames import SizedFrames
from tubelet.geometry.look import choose_frames, frames_of_clips, look_at
from tubelet.geometry.network import UNTRAINED, config_for, load_network
from tubelet.geometry.sampling import cover_space, farthest_poses
from tubelet.geometry.vggt import VGGT
from tubelet.geometry.vggt_keys import to_theirs
from tubelet.reading.clip import Clip

SIDE = 42


def clip(count: int = 4, size: tuple[int, int] = (40, 40), seed: int = 0, *, video: bool = True) -> Clip:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=np.uint8)
    return Clip(pixels, tuple(0.5 * i for i in range(count)), f"clip{seed}.mp4", is_video=video)


@pytest.fixture(scope="module")
def model() -> VGGT:
    return load_network("vggt_tiny", points="head")


# ---- frames


def test_a_video_s_frames_keep_their_times_and_pictures_have_none():
    seen = frames_of_clips([clip(3)], fit="square", side=SIDE)
    assert (seen.frames.shape, seen.times_s) == ((3, SIDE, SIDE, 3), (0.0, 0.5, 1.0))
    assert (seen.name, seen.names) == ("clip0.mp4", ("clip0.mp4",) * 3)
    pictures = frames_of_clips([clip(1, video=False), clip(1, seed=1, video=False)], fit="square", side=SIDE)
    assert (pictures.times_s, pictures.names) == (None, ("clip0.mp4", "clip1.mp4"))
    assert pictures.name == "clip0.mp4 and 1 more"
    assert pictures.notes == ()


def test_what_a_person_should_know_of_the_files_is_kept():
    damaged = replace(clip(3), complete=False, frames_expected=9, notes=("HLG was brought to SDR",))
    assert frames_of_clips([damaged], fit="square", side=SIDE).choose([1]).notes == (
        "clip0.mp4: INCOMPLETE: 3 of 9 frames",
        "clip0.mp4: HLG was brought to SDR",
    )
    portrait = frames_of_clips([clip(1, (40, 30))])
    assert portrait.notes == ("the top and bottom of the frames are cut off; fit pad keeps them",)
    assert frames_of_clips([clip(1, (40, 30))], fit="pad").notes == ()


def test_pictures_of_several_sizes_are_told_or_made_one():
    clips = [clip(1, (30, 40), video=False), clip(1, (40, 30), 1, video=False)]
    with pytest.raises(ShapeError, match=r"clip1.mp4: 518 x 518 pixels beside frames of 518 x 392; fit pad or square"):
        frames_of_clips(clips)
    seen = frames_of_clips(clips, fit="pad")
    assert seen.frames.shape == (2, 518, 518, 3)
    assert seen.content == ((0, 63, 518, 455), (63, 0, 455, 518))


@pytest.mark.parametrize(
    "clips, error, says",
    [
        ([], InputError, "at least one frame"),
        ([clip(2), clip(2, seed=1)], InputError, "a video beside others"),
        ([clip(1, video=False), clip(2)], InputError, "clip0.mp4"),
        ([clip(9)], LimitError, "a scene of 9 frames, at most 8"),
        ([clip(1, (2, 300), video=False)], LimitError, "too long"),
    ],
)
def test_what_is_no_scene(clips: list[Clip], error: type[Exception], says: str):
    with pytest.raises(error, match=says):
        frames_of_clips(clips, most=8)


# ---- the network


def test_the_scene_is_what_the_network_says(model: VGGT):
    seen = frames_of_clips([clip(3)], fit="square", side=SIDE)
    scene = look_at(model, seen, name="tiny")
    with torch.no_grad():
        found = model.run(SizedFrames(seen.frames, seen.content[0], False).rows())
    cameras = found.cameras(["clip0.mp4"])[0]
    assert torch.equal(scene.cameras.world_to_cam, cameras.world_to_cam) and torch.equal(scene.depth, found.depth[0])
    assert torch.equal(scene.points, unproject(found.depth[0], cameras.world_to_cam, cameras.K))
    assert torch.equal(scene.confidence, found.depth_confidence[0])
    assert (scene.untrained, scene.network, scene.name) == (True, "tiny", "clip0.mp4")
    assert not scene.cameras.bounded.any()  # type: ignore[union-attr]
    headed = look_at(model, seen, points="head")
    assert torch.equal(headed.points, found.points[0])
    assert torch.equal(headed.confidence, found.points_confidence[0])


def test_by_time_the_network_sees_no_other_frame(model: VGGT):
    seen = frames_of_clips([clip(6)], fit="square", side=SIDE)
    scene = look_at(model, seen, keep=3)
    alone = look_at(model, seen.choose([0, 2, 5]))
    assert scene.times_s == (0.0, 1.0, 2.5)
    assert torch.equal(scene.depth, alone.depth)


def test_by_space_and_by_poses_frames_are_chosen_of_all_that_were_seen(model: VGGT):
    seen = frames_of_clips([clip(6)], fit="square", side=SIDE)
    every = look_at(model, seen)
    told: list[str] = []
    scene = look_at(model, seen, keep=3, by="space", stage=told.append)
    wanted = cover_space(every.points.numpy(), every.confidence.numpy(), 3, fill=True).frames
    assert told == ["seeing", "points", "choosing"]
    assert scene.times_s == tuple(0.5 * i for i in wanted)
    assert torch.equal(scene.points, every.points[list(wanted)])
    scene = look_at(model, seen, keep=3, by="poses")
    wanted = sorted(farthest_poses(every.cameras.cam_to_world, 3))
    assert scene.times_s == tuple(0.5 * i for i in wanted)
    assert np.array_equal(scene.frames, seen.frames[wanted])
    assert torch.equal(scene.cameras.world_to_cam, every.cameras.world_to_cam[wanted])


def test_one_frame_and_equal_frames_are_scenes(model: VGGT):
    one = look_at(model, frames_of_clips([clip(1)], fit="square", side=SIDE))
    assert len(one) == 1 and len(one.cloud().points) == SIDE * SIDE // 2
    still = Clip(np.full((4, 30, 40, 3), 90, np.uint8), (0.0, 1.0, 2.0, 3.0), "still.mp4", is_video=True)
    seen = frames_of_clips([still], fit="square", side=SIDE)
    for by in ("time", "space", "poses"):
        scene = look_at(model, seen, keep=2, by=by)
        assert 1 <= len(scene) <= 2 and bool(scene.depth.isfinite().all())


def test_white_margins_take_no_part_in_the_choice_by_space(model: VGGT):
    seen = frames_of_clips([clip(4, (30, 40))], fit="square", side=SIDE)
    assert seen.content[0][1] > 0
    every = look_at(model, seen)
    inside = torch.where(every.usable[..., None], every.points, torch.nan)
    wanted = cover_space(inside.numpy(), every.confidence.numpy(), 2, fill=True).frames
    assert look_at(model, seen, keep=2, by="space").times_s == tuple(0.5 * i for i in wanted)
    assert every.cloud(1.0).total < every.depth.numel()


def test_weights_that_give_nan_are_told(model: VGGT):
    seen = frames_of_clips([clip(2)], fit="square", side=SIDE)
    broken = load_network("vggt_tiny")
    assert broken.camera is not None and broken.depth is not None
    with torch.no_grad():
        broken.depth.conv3.bias[0] = torch.nan  # type: ignore[union-attr]
    scene = look_at(broken, seen)
    with pytest.raises(NotFinite, match="no pixel has a finite point"):
        scene.cloud()
    with pytest.raises(NotFinite):
        look_at(broken, seen, keep=1, by="space")
    with torch.no_grad():
        broken.camera.fc2.bias[0] = torch.nan
    with pytest.raises(NotFinite, match="camera of this frame"):
        look_at(broken, seen)


def test_a_network_without_a_head_that_is_needed(model: VGGT, as_in_production: None):
    seen = frames_of_clips([clip(1)], fit="square", side=SIDE)
    with pytest.raises(ConfigError, match="no points head"):
        look_at(load_network("vggt_tiny"), seen, points="head")
    with pytest.raises(ConfigError, match="by is one of"):
        look_at(model, seen, by="size")  # type: ignore[arg-type]


def test_frames_of_a_scene_in_another_order(model: VGGT):
    scene = look_at(model, frames_of_clips([clip(3)], fit="square", side=SIDE))
    turned = choose_frames(scene, (2, 0))
    assert turned.times_s == (1.0, 0.0) and torch.equal(turned.depth, scene.depth[[2, 0]])


# ---- weights


def test_weights_of_a_folder_are_read_with_the_heads_that_are_needed(tmp_path: Path, model: VGGT):
    tensors = to_theirs(model.state_dict(), model.config)
    save_file(tensors, tmp_path / "model.safetensors")
    config = config_for("vggt_tiny", ("camera", "depth", "points"))
    read = load_network(tmp_path, config=config)
    assert (read.points, read.untrained) == (None, False)
    seen = frames_of_clips([clip(2)], fit="square", side=SIDE)
    assert torch.equal(look_at(read, seen).depth, look_at(model, seen).depth)
    assert load_network(tmp_path, config=config, points="head").points is not None
    inside = tmp_path / "inside"
    inside.mkdir()
    save_file({NETWORK + name: x for name, x in tensors.items()}, inside / "model.safetensors")
    assert torch.equal(look_at(load_network(inside, config=config), seen).depth, look_at(model, seen).depth)


def test_a_folder_without_heads_says_what_is_missing_and_where_it_is(tmp_path: Path, model: VGGT):
    tensors = to_theirs(model.state_dict(), model.config)
    bare = {name: x for name, x in tensors.items() if name.startswith("aggregator.")}
    for prefix, whose in ((NETWORK, "Spatial-MLLM's network"), ("", "this network")):
        folder = tmp_path / (whose.split()[0] + "x")
        folder.mkdir()
        save_file({prefix + name: x for name, x in bare.items()}, folder / "model.safetensors")
        with pytest.raises(ConfigError, match=f"{whose} has no camera and no depth head.*facebook/VGGT-1B"):
            load_network(folder)


def test_what_is_no_network(tmp_path: Path):
    with pytest.raises(WeightsError):
        load_network(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(KeyMismatch):
        load_network(tmp_path)


def test_random_networks_by_name():
    tiny = load_network("vggt_tiny", dtype=torch.bfloat16)
    assert tiny.untrained and tiny.points is None
    assert {x.dtype for x in tiny.aggregator.parameters()} == {torch.bfloat16}
    assert {x.dtype for x in tiny.depth.parameters()} == {torch.float32}  # type: ignore[union-attr]
    assert replace(UNTRAINED["vggt_1b"], points=None) == config_for("facebook/VGGT-1B", ("camera", "depth"))
