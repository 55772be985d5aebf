"""The shapes of Spatial-MLLM's own log, row by row."""

from tests.geometry.ledger import ledger

LOG = [
    ("video_tchw", [16, 3, 476, 644]),
    ("pixel_values_videos", [12512, 1176]),
    ("n_video_tokens", 3128),
    ("spatial_embeds", [16, 1569, 2048]),
    ("patch_start_idx", 5),
    ("camera_encs", [4, 16, 9]),
    ("merged", [3128, 16384]),
    ("video_embeds", [3128, 2048]),
    ("video_grid_thw", [8, 34, 46]),
    ("fused_embeds", [3128, 2048]),
    ("inputs_embeds", [1, 3187, 2048]),
    ("position_ids", [3, 1, 3187]),
    ("position_ids of a generated token", [3, 1, 1]),
]


def test_every_step_has_the_shape_in_the_log():
    assert list(ledger()) == LOG
