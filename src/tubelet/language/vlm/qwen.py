"""How complete Qwen-VL checkpoints are put together: what their own files say, as a `Scheme`.

qwen2_vl                   a row of time counts one
qwen2_5_vl                 ... its seconds x tokens_per_second
qwen3_vl, qwen3_vl_moe     ... nothing; each frame stands behind a timestamp
spatial-mllm               ... one, as it was trained: its frames had no times (diankun-wu/Spatial-MLLM@9fc4738)
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tubelet.encoder.config import EncoderConfig
from tubelet.errors import ConfigError
from tubelet.language.placing.rules import QWEN2_5_VL, QWEN2_VL, QWEN3_VL, PositionRule, TokenIds
from tubelet.language.vlm.layout import Layout, ModelFiles
from tubelet.language.vlm.scheme import Scheme
from tubelet.weights.locate import CONFIG

RULES: dict[str, PositionRule] = {
    "qwen2_vl": QWEN2_VL,
    "qwen2_5_vl": QWEN2_5_VL,
    "qwen3_vl": QWEN3_VL,
    "qwen3_vl_moe": QWEN3_VL,
}
SPATIAL_MLLM = "spatial-mllm"
SPATIAL_SECTIONS = ("spatial_config", "connector_config")
_IDS = {
    "image_token_id": 151655,
    "video_token_id": 151656,
    "vision_start_token_id": 151652,
    "vision_end_token_id": 151653,
}


def qwen_scheme(kind: str, config: Mapping[str, Any], encoder: EncoderConfig) -> Scheme:
    """The scheme of a complete Qwen-VL checkpoint; its encoder knows already how the files size pictures and
    clips.

    Raises ConfigError.
    """
    ids = {name: config.get(name, default) for name, default in _IDS.items()}
    if not all(isinstance(i, int) and not isinstance(i, bool) for i in ids.values()):
        raise ConfigError("token ids are whole numbers", source=CONFIG, got=tuple(ids.values()))
    rule = RULES[kind]
    if rule.time == "seconds":
        vision = config.get("vision_config") or {}
        rate = vision.get("tokens_per_second", 4)
        if not isinstance(rate, (int, float)) or isinstance(rate, bool) or not 0 <= rate < 1e6:
            raise ConfigError("tokens_per_second is a number", source=CONFIG, got=rate)
        rule = replace(rule, tokens_per_second=rate)
    pixels = replace(encoder.pixels, clips=None)
    return Scheme(TokenIds(*(ids[name] for name in _IDS)), pixels, rule, encoder.pixels.clips)


def _scheme(files: ModelFiles, encoder: EncoderConfig) -> Scheme:
    return qwen_scheme(files.kind, files.config, encoder)


QWEN_VL = Layout(_scheme)


def spatial_level(config: Mapping[str, Any]) -> int | None:
    """The level of VGGT whose features a whole model adds to its encoder's rows; None where it has no VGGT.

    Raises ConfigError for another way to join them than Spatial-MLLM's.
    """
    if config.get("model_type") != SPATIAL_MLLM and "spatial_config" not in config:
        return None
    said = config.get("connector_config")
    said = said if isinstance(said, Mapping) else {}
    kind, level = said.get("connector_type", "mlp_add"), said.get("spatial_embeds_layer_idx", -1)
    if kind != "mlp_add" or not isinstance(level, int) or isinstance(level, bool):
        raise ConfigError(
            "a connector is mlp_add behind a level of VGGT", source=CONFIG, expected=("mlp_add", -1), got=(kind, level)
        )
    return level


def without_spatial(config: Mapping[str, Any]) -> dict[str, Any]:
    """Spatial-MLLM's configuration as that of the Qwen2.5-VL it is built on."""
    return {k: v for k, v in config.items() if k not in SPATIAL_SECTIONS} | {"model_type": "qwen2_5_vl"}
