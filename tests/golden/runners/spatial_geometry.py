"""Cameras, distances of views and choice of frames of the Spatial-MLLM repositories."""

import torch
from torch import Tensor

from tubelet.geometry.cameras import (
    decode_matrices,
    encode_matrices,
    inverse_poses,
    tubelet_matrices,
    unproject,
)
from tubelet.geometry.rotation import quaternion_to_rotation, rotation_to_quaternion
from tubelet.geometry.sampling import (
    add_neighbours,
    cover_space,
    farthest_poses,
    pose_coverage,
    sorted_neighbours,
    spread_poses,
)
from tubelet.geometry.views import Weights, lie_scalar, pose_distances

from ..cases import Case, Mismatch

ARC_COSINE = 5e-4  # what upstream's arc cosine gives for a camera's angle to itself in float32, as the notes say


def numbers(frames: tuple[int, ...]) -> Tensor:
    return torch.tensor(frames, dtype=torch.int64)


def run_pose_encoding(case: Case) -> None:
    """pose_enc_to_extri_intri, pose_enc_from_extri_intri."""
    height, width = case.config["image_size_hw"]
    size = (height, width)
    if "pose_enc" in case.inputs:
        world_to_cam, k, _ = decode_matrices(case.inputs["pose_enc"], size)
        case.check("extrinsics_w2c", world_to_cam)
        case.check("intrinsics", k)
        case.check("pose_enc_roundtrip", encode_matrices(world_to_cam, k, size))
        return
    world_to_cam = case.inputs["extrinsics_w2c"]
    case.check("pose_enc", encode_matrices(world_to_cam, case.inputs["intrinsics"], size))
    q = rotation_to_quaternion(world_to_cam[0, ..., :3])
    case.check("quat_xyzw", q)
    case.check("rot_from_quat", quaternion_to_rotation(q))


def run_camera_encs(case: Case) -> None:
    """One camera for each pair of frames."""
    height, width = case.config["image_size_hw"]
    world_to_cam, k, _ = decode_matrices(case.inputs["camera_encs"], (height, width))
    case.check("extrinsics_w2c", world_to_cam)
    case.check("intrinsics", k)
    case.check("c2w_4x4", inverse_poses(world_to_cam[0]))
    step = case.config["temporal_patch_size"]
    pairs = [tuple(range(i, i + step)) for i in range(0, world_to_cam.shape[1], step)]
    for how in ("first", "mean"):
        both = [tubelet_matrices(w, one, pairs, how) for w, one in zip(world_to_cam, k, strict=True)]
        case.check(f"viewmats_{how}", torch.stack([v for v, _ in both]))
        case.check(f"Ks_{how}", torch.stack([one for _, one in both]))


def run_unproject(case: Case) -> None:
    """The inverse of poses, and a world point for each pixel."""
    poses = case.inputs["extrinsics_w2c"]
    case.check("c2w_4x4", inverse_poses(poses))
    case.check("world_points", unproject(case.inputs["depth"][..., 0], poses, case.inputs["intrinsics"]))


def run_lie_scalar(case: Case) -> None:
    """One number a camera. At the anchor upstream gives the rounding of an arc cosine, and we give 0."""
    for name, options in case.config["variants"].items():
        anchor = options.get("reference", 0)
        got = lie_scalar(
            case.inputs["c2w"],
            anchor=anchor,
            translation=options.get("lambda_trans", 1.0),
            scale_free=options.get("traj_scale_norm", True),
            unit=options.get("global_normalize", True),
        )
        if got[anchor] != 0 or not case.outputs[name][anchor] <= ARC_COSINE:
            raise Mismatch(f"{name}: the anchor is {float(case.outputs[name][anchor]):.3g} from itself")
        got[anchor] = case.outputs[name][anchor]
        case.check(name, got)
    case.remark = "at the anchor 0, within an arc cosine's rounding"


def run_cover_space(case: Case) -> None:
    """Space-aware sampling."""
    found = cover_space(
        case.inputs["world_points"].numpy(), case.inputs["world_points_conf"].numpy(), case.config["K"],
        divisions=case.config["grid_divisions"],
    )  # fmt: skip
    case.check("selected", numbers(found.frames))
    case.check("greedy_order", numbers(found.order))
    case.check("voxels_per_frame", numbers(found.voxels))
    case.check("voxel_size", torch.tensor(found.edge))
    case.check("bbox_min", torch.from_numpy(found.low))
    case.check("bbox_max", torch.from_numpy(found.high))
    case.check("threshold", torch.tensor(found.threshold, dtype=torch.float64))


def run_pose_sampling(case: Case) -> None:
    """Farthest points among poses, and among two numbers a pose."""
    poses, keep = case.inputs["poses"], case.config["num_samples"]
    named: dict[str, Weights] = {"max_norm": "max", "data_driven": "spread"}
    for name, weights in named.items():
        case.check(f"dist_{name}", pose_distances(poses, weights))
        for start in ("first", "medoid"):
            case.check(f"fps_{name}_{start}", numbers(farthest_poses(poses, keep, start=start, weights=weights)))
    chosen = farthest_poses(poses, keep, start="medoid")
    case.check("coverage", torch.tensor(pose_coverage(pose_distances(poses), chosen), dtype=torch.float64))
    for scale, said in (("deviation", "std_norm"), ("max", "max_norm")):
        for method, their in (("grid", "grid"), ("hybrid", "hybrid"), ("farthest", "fps_2d")):
            case.check(f"eff_{their}_{said}", numbers(spread_poses(poses, keep, method=method, scale=scale)))
    case.check("eff_fps_2d_medoid", numbers(spread_poses(poses, keep, start="medoid")))


def run_neighbours(case: Case) -> None:
    """Merge-aware sampling, with upstream's sort."""
    for i, one in enumerate(case.config["cases"]):
        pairs = add_neighbours(case.inputs[str(i)].tolist(), one["total"], step=one["step"], mode=one["mode"])
        case.check(str(i), numbers(sorted_neighbours(pairs)))
