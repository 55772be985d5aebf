"""Which runner a case belongs to: by the prefix of its name, then by what it contains."""

from collections.abc import Callable

from ..cases import Case
from .lavida import run_lavida
from .llava_projector import run_projector
from .llava_tower import run_tower
from .onevision_codec import run_codec_demo, run_codec_select
from .onevision_convert import run_convert
from .onevision_model import run_model
from .onevision_pixels import run_preprocess
from .onevision_tables import run_ov2_tables, run_residual_topk, run_temporal_tables
from .shirg import run_shirg
from .shirg_metrics import run_upstream_metrics
from .spatial_fuse import run_connector, run_merge
from .spatial_geometry import (
    run_camera_encs,
    run_cover_space,
    run_lie_scalar,
    run_neighbours,
    run_pose_encoding,
    run_pose_sampling,
    run_unproject,
)
from .spatial_metrics import run_vsibench
from .spatial_mllm import run_spatial_mllm
from .spatial_mrope import run_mrope_apply, run_rope_index
from .spatial_pixels import run_preprocess as run_spatial_preprocess
from .spatial_pixels import run_smart_resize, run_vggt_load
from .spatial_pose import run_pose_index, run_poseaware, run_prope, run_time_index
from .spatial_vggt import run_aggregator, run_camera_head, run_dino, run_dpt, run_full, run_rope2d

SHIRG = (
    *("v1", "v1b", "v2", "v3", "x", "fixed", "fixed768", "fixed1152", "dist", "distmod", "fovea", "fovea2", "fovea5"),
    *("rotary", "token", "infonce"),
)
Runner = Callable[[Case], None]
SPATIAL: dict[str, Runner] = {
    "rope_index_": run_rope_index,
    "mrope_apply_": run_mrope_apply,
    "pose_enc_": run_pose_encoding,
    "camera_encs_": run_camera_encs,
    "geometry_inverse_": run_unproject,
    "lie_scalar_": run_lie_scalar,
    "sa_sampling_": run_cover_space,
    "pose_sampling": run_pose_sampling,
    "merge_aware_": run_neighbours,
    "merge_v11_": run_merge,
    "smart_resize": run_smart_resize,
    "qwen_": run_spatial_preprocess,
    "vggt_load_": run_vggt_load,
    "prope_": run_prope,
    "vggt_rope2d": run_rope2d,
    "vggt_dino_": run_dino,
    "vggt_aggregator_": run_aggregator,
    "vggt_camera_head": run_camera_head,
    "vggt_dpt_": run_dpt,
    "vggt_full": run_full,
    "poseaware_": run_poseaware,
    "spatial_mllm_": run_spatial_mllm,
    "vsibench_": run_vsibench,
    "fork_rope_index_time": run_time_index,
    "fork_rope_index_pose": run_pose_index,
    "connector_v": run_connector,
}


def runner_for(case: Case) -> Runner | None:
    """The runner of a case; None for kinds the project does not cover."""
    kind = case.name.partition("_")[0]
    if kind in ("pack", "std", "head", "ov2") and case.weights:
        return run_model
    if kind == "std" and "res" in case.inputs:
        return run_residual_topk
    for prefix, run in (
        *SPATIAL.items(),
        *(("codec_demo_", run_codec_demo), ("codec_select", run_codec_select)),
    ):
        if case.name.startswith(prefix):
            return run
    table = {
        "ov2": run_ov2_tables,
        "convert": run_convert,
        "temporal": run_temporal_tables,
        "preprocess": run_preprocess,
        "projector": run_projector,
        "tower": run_tower,
        "lavida": run_lavida,
        "position": run_lavida,
        "upstream": run_upstream_metrics,
        **dict.fromkeys(SHIRG, run_shirg),
    }
    return table.get(kind)
