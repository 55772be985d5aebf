"""Which hidden states LLaVA's code reads, by the names its configurations give them.

Source: EvolvingLMMs-Lab/OneVision-Encoder:llava_next/llava/model/multimodal_encoder/hevc_vit_packing_tower.py@28efa3a.
"""

from collections.abc import Sequence

from tubelet.errors import ConfigError

M25811_F6 = (-2, -5, -8, -11, 6)
# mm_vision_select_feature -> which states it picks. The cls_ forms keep the class token before the patches, where an
# encoder has one (CLIP); LLaVA-OneVision's have none, so there they are the same.
FEATURES = {
    "patch": "one",
    "cls_patch": "one",
    "slicefour": "slicefour",
    "slicefour_patch": "slicefour",
    "slicefour_cls_patch": "slicefour",
    "slice_m25811_f6": "m25811_f6",
    "slice_m25811_f6_patch": "m25811_f6",
    "slice_m25811_f6_cls_patch": "m25811_f6",
}


def keeps_class(select_feature: str, prefix: int) -> bool:
    """Whether the class token stands among the features: asked for, and there, of `prefix` tokens.

    >>> keeps_class("cls_patch", 1), keeps_class("cls_patch", 0), keeps_class("patch", 1)
    (True, False, False)
    """
    return "cls" in select_feature and prefix > 0


def state_numbers(select_feature: str, select_layer: int, layers: int) -> tuple[int, ...]:
    """Which of the `layers` + 1 hidden states a selection joins on channels, in order, counted from 0.

    State 0 comes before the first layer and the last before the final norm. With N = layers + 1:
    patch: N + select_layer; slicefour: N//4 + select_layer and every N//4 after it; slice_m25811_f6: N-2, N-5, N-8,
    N-11 and 6. Raises ConfigError for an unknown selection and for one the encoder is too shallow for.

        >>> state_numbers("slicefour_patch", -2, 12)
        (1, 4, 7, 10)
    """
    if select_feature not in FEATURES:
        raise ConfigError(
            f"select_feature is one of {', '.join(FEATURES)}", expected=tuple(FEATURES), got=select_feature
        )
    states, kind = layers + 1, FEATURES[select_feature]
    if kind == "one":
        wanted: Sequence[int] = (select_layer,)
    elif kind == "m25811_f6":
        wanted = M25811_F6
    else:
        step = max(states // 4, 1)
        wanted = range(step + select_layer, states, step)
        if len(wanted) != 4 or wanted[0] < 0:
            raise ConfigError(
                f"slicefour at layer {select_layer} does not fit {layers} layers: it would join states {list(wanted)}",
                expected=4,
                got=tuple(wanted),
            )
    outside = [i for i in wanted if not -states <= i < states]
    if outside:
        raise ConfigError(
            f"{select_feature} reads hidden state {outside[0]}, an encoder of {layers} layers has {states}",
            limit=states,
            got=outside[0],
        )
    return tuple(i % states for i in wanted)
