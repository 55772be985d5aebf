"""M-RoPE of the Spatial-MLLM repositories: position indices of three models, and rotation by them."""

from dataclasses import replace

from tests.golden.upstream.rotary import cos_sin, inverse_frequencies, rotate, select_axes
from torch import Tensor

from tubelet.language.placing.mrope import rope_index
from tubelet.language.placing.rules import QWEN2_5_VL, QWEN2_VL, QWEN3_VL, PositionRule, TokenIds

from ..cases import Case


def run_rope_index(case: Case) -> None:
    """Each rule whose positions the case holds: _2 Qwen2-VL, _25 Qwen2.5-VL, _3 Qwen3-VL."""
    config = case.config
    ids = TokenIds(config["image_token_id"], config["video_token_id"], start=config["vision_start_token_id"])
    rules: dict[str, PositionRule] = {
        "2": QWEN2_VL,
        "25": replace(QWEN2_5_VL, tokens_per_second=config.get("tokens_per_second", 2), arithmetic="float32"),
        "3": QWEN3_VL,
    }
    seconds: Tensor | None = case.inputs.get("second_per_grid_ts")
    for name, rule in rules.items():
        if f"pos_{name}" not in case.outputs:
            continue
        got = rope_index(
            case.inputs["input_ids"],
            ids,
            rule,
            image_grid_thw=case.inputs.get("image_grid_thw"),
            video_grid_thw=case.inputs.get("video_grid_thw"),
            second_per_grid_ts=seconds,
            attention_mask=case.inputs.get("attention_mask"),
            merge=config["spatial_merge_size"],
        )
        case.check(f"pos_{name}", got.position_ids)
        case.check(f"delta_{name}", got.rope_deltas)


def run_mrope_apply(case: Case) -> None:
    """Frequencies, cosines and sines of every axis, and the queries and keys turned by their sections."""
    config = case.config
    case.check("inv_freq", inverse_frequencies(config["head_dim"], config["rope_theta"]))
    tables = cos_sin(case.inputs["position_ids"], config["head_dim"], config["rope_theta"])
    case.check("cos", tables[0])
    case.check("sin", tables[1])
    cos, sin = (select_axes(table, config["mrope_section"], "chunked") for table in tables)
    q, k = rotate(case.inputs["q"], case.inputs["k"], cos, sin)
    case.check("q", q)
    case.check("k", k)
