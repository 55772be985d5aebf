"""The network that looks at a scene: facebook/VGGT-1B's layout from a folder or hub, or random weights by name."""

from collections.abc import Sequence
from typing import Literal

import torch

from tubelet.errors import ConfigError
from tubelet.geometry.branch import NETWORK
from tubelet.geometry.heads import CameraConfig, DPTConfig
from tubelet.geometry.vggt import VGGT, VGGT_1B, VGGTConfig, untrained_vggt, vggt_config
from tubelet.geometry.vggt_keys import HEADS, load_vggt
from tubelet.weights.locate import Source, find_folder

Points = Literal["depth", "head"]

_TINY = {"layers": (0, 1, 2, 3), "channels": (16, 16, 16, 16), "features": 16}
UNTRAINED: dict[str, VGGTConfig] = {
    "vggt_tiny": vggt_config(
        layers=4,
        width=64,
        heads=4,
        patch_layers=2,
        camera=CameraConfig(128, 2, 4),
        depth=DPTConfig(128, **_TINY),
        points=DPTConfig(128, out=4, activation="inv_log", **_TINY),
    ),
    "vggt_1b": VGGT_1B,
}
"""Networks with random weights, by name. vggt_tiny has 0.6 M of them; vggt_1b 1.2 G, 5 GB of float32."""

SEED = 0


def heads_for(points: Points) -> tuple[str, ...]:
    """The heads a scene needs: cameras and depth, and the point head where points are its own."""
    return ("camera", "depth", "points") if points == "head" else ("camera", "depth")


def config_for(name: str, heads: Sequence[str]) -> VGGTConfig:
    """The configuration of a network by name, or of the published one, with these heads alone."""
    whole = UNTRAINED.get(name, VGGT_1B)
    kept = {head: getattr(whole, head) if head in heads else None for head in HEADS}
    return VGGTConfig(whole.aggregator, whole.patches, **kept)


def load_network(
    source: Source,
    *,
    points: Points = "depth",
    config: VGGTConfig = VGGT_1B,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> VGGT:
    """A VGGT with the heads a scene needs: random weights where `source` is a name of `UNTRAINED`, else a folder's, a
    file's or a hub id's.

    config: of stored weights. dtype: of the layers, None keeps the stored one; heads stay float32. Weights that stand
    in a whole model's folder under its own prefix are read there. Raises ConfigError where heads are missing, as in
    Spatial-MLLM, which is published without, and what `load_vggt` raises.

        >>> load_network("vggt_tiny").untrained
        True
    """
    heads = heads_for(points)
    if isinstance(source, str) and source in UNTRAINED:
        model = untrained_vggt(config_for(source, heads), SEED)
        _look_ahead(model)
        model.patches.to(device, dtype)
        model.aggregator.to(device, dtype)
        return model.to(device)
    folder = find_folder(source)
    prefix = NETWORK if any(key.startswith(f"{NETWORK}aggregator.") for key in folder.home) else ""
    missing = [h for h in heads if not any(key.startswith(f"{prefix}{HEADS[h]}.") for key in folder.home)]
    if missing and any(key.startswith(f"{prefix}aggregator.") for key in folder.home):
        what = "Spatial-MLLM's network" if prefix else "this network"
        raise ConfigError(
            f"{what} has no {' and no '.join(missing)} head, without which there is no scene; facebook/VGGT-1B has all",
            source=folder.name,
            expected=heads,
            got=tuple(h for h in heads if h not in missing),
        )
    return load_vggt(folder, heads=heads, config=config, prefix=prefix, dtype=dtype, device=device)


def _look_ahead(model: VGGT) -> None:
    """Random cameras that look ahead with a field of view of one radian, where random ones would see nothing."""
    if model.camera is not None:
        ahead = torch.tensor([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
        with torch.no_grad():
            model.camera.fc2.bias.copy_(ahead / model.camera.iterations)
