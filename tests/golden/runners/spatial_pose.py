"""Cameras inside attention, and position indices by pose and by frame numbers."""

import torch
from torch import Tensor

from tubelet.geometry.pose_index import pose_steps, steps_of_frames
from tubelet.geometry.prope import apply_maps, camera_attention, pose_maps, prope_maps
from tubelet.geometry.tubelets import paired
from tubelet.language.placing.rules import TokenIds
from tubelet.language.placing.view_index import view_index

from ..cases import Case


def run_prope(case: Case) -> None:
    """Attention and its three maps, sample by sample."""
    config, x = case.config, case.inputs
    size = (config["image_height"], config["image_width"])
    grid = (config["patches_y"], config["patches_x"])
    got: dict[str, list[Tensor]] = {}
    for b in range(len(x["q"])):
        q, k, v = (x[name][b : b + 1] for name in "qkv")
        for name, intrinsics in (("out_Ks", x["Ks"][b]), ("out_noKs", None)):
            maps = prope_maps(x["viewmats"][b], intrinsics, grid, size, config["head_dim"])
            got.setdefault(name, []).append(camera_attention(q, k, v, maps))
            if intrinsics is not None:
                got.setdefault("q_t", []).append(apply_maps(q, maps, maps.q))
                got.setdefault("k_t", []).append(apply_maps(k, maps, maps.k))
                got.setdefault("o_t", []).append(apply_maps(v, maps, maps.out, back=True))
    for name, parts in got.items():
        case.check(name, torch.cat(parts))


def run_poseaware(case: Case) -> None:
    """The fork's maps of vision tokens alone."""
    x = case.inputs
    seen = x["visual_mask"][0].bool()
    poses = x["extrinsics_w2c"][0]
    each = int(seen.sum()) // len(poses)
    tubelets = torch.full((len(seen),), -1).masked_scatter(seen, torch.arange(len(poses)).repeat_interleave(each))
    for name, (start, stop) in case.config["scopes"].items():
        maps = pose_maps(poses, tubelets, case.config["head_dim"], scope=(start, stop))
        case.check(f"{name}.scope", torch.tensor([maps.start, maps.stop]))
        for leaf, source, matrices in (
            ("q", "q", maps.q),
            ("k", "k", maps.k),
            ("v", "v", maps.k),
            ("o", "attn_out", maps.out),
        ):
            case.check(f"{name}.{leaf}", apply_maps(x[source], maps, matrices))


IDS = TokenIds(151655, 151656, start=151652)


def run_time_index(case: Case) -> None:
    """The fork's three ways to count time."""
    grid = case.inputs["video_grid_thw"]
    rows = int(grid[0, 0])
    frames = [float(f) for f in case.inputs["selected_frames"]]
    seconds = case.config["second_per_grid"]
    for name, mode in case.config["modes"].items():
        how = mode.get("position_ids_compute_mode", "mRoPE")
        if how == "mRoPE_readaptT":
            top = 2 * rows - 1 if mode.get("temporal_readapted_use_dynamic_scale_factor", True) else 16
            merge = mode.get("temporal_readapted_merge_strategy", "mean")
            steps = steps_of_frames(frames, paired(frames), top, seconds=seconds, merge=merge, arithmetic="float32")
        else:
            steps = [0 if how == "mRoPE_woT" else int(t * seconds * 2) for t in range(rows)]
        got = view_index(case.inputs["input_ids"], IDS, grid, time_steps=[steps])
        case.check(f"{name}.pos", got.position_ids.long())
        case.check(f"{name}.delta", got.rope_deltas.long())
    case.check("visual_mask", (case.inputs["input_ids"] == IDS.video).long())


def run_pose_index(case: Case) -> None:
    """The fork's axis of pose, beside time or in its place."""
    grid = case.inputs["video_grid_thw"]
    frames = [float(f) for f in case.inputs["selected_frames"]]
    rows, plan = int(grid[0, 0]), paired(frames)
    for name, mode in case.config["modes"].items():
        steps = [2 * t for t in range(rows)]
        if mode.get("THW_position_ids_compute_mode") == "mRoPE_readaptT":
            steps = steps_of_frames(frames, plan, 2 * rows - 1, arithmetic="float32")
        pose = pose_steps(
            case.inputs["c2w"],
            plan,
            top=len(frames) - 1 if mode.get("pose_use_dynamic_scale_factor") else 16.0,
            anchor=mode.get("pose_anchor_rereference_strategy", "first"),
            merge=mode.get("pose_merge_strategy", "mean"),
            translation=mode.get("pose_id_scalar_lambda_trans", 1.0),
            whole_range=mode.get("hard_reset_reference_after_pose_merge", True),
        )
        got = view_index(
            case.inputs["input_ids"], IDS, grid, time_steps=[steps], axes=mode["pose_enc_type"],
            pose_steps=None if mode["pose_enc_type"] == "THW" else [pose],
            pose_offset=mode.get("do_offset_in_pose_pos_id", True),
        )  # fmt: skip
        case.check(f"{name}.pos", got.position_ids)
        case.check(f"{name}.delta", got.rope_deltas)
