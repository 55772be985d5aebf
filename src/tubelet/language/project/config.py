"""What a projector is, as a value; nothing here needs torch."""

import re
from dataclasses import dataclass
from typing import Literal

from tubelet.errors import ConfigError
from tubelet.packed.grid import ODD, Odd

SETTINGS = "projector"  # the entry with the configuration, of a file's metadata and of a whole model's config.json
Compat = Literal["infer_hw", "consecutive"]
KINDS = (
    "pixel_shuffle",
    "linear",
    "mlpNx_gelu",
    "mlpNx_resMx_gelu",
    "patch_merger",
    "spatial_merge",
    "merge_linear",
    "soft_tokens",
    "pooler",
    "identity",
)
COMPAT = {"infer_hw": "spatial_merge", "consecutive": "patch_merger"}  # which kind knows which
MERGING = ("patch_merger", "spatial_merge", "pixel_shuffle", "merge_linear", "soft_tokens", "pooler")
NORM_EPS = 1e-6  # of ln_q and norm; the residual blocks have torch's 1e-5
_MLP = re.compile(r"mlp([1-9][0-9]{0,2})x(?:_res([0-9]{1,3})x)?_gelu")


@dataclass(frozen=True)
class ProjectorConfig:
    """What a projector is, as data; `build_projector` describes the fields. Raises ConfigError where they contradict
    each other, also for an option that the kind has no use for."""

    kind: str
    in_dim: int
    out_dim: int
    merge: int = 1
    odd: Odd = "error"
    compat: Compat | None = None
    eps: float = NORM_EPS
    norm_out: bool = False

    def __post_init__(self) -> None:
        if (self.kind not in KINDS or "N" in self.kind) and not _MLP.fullmatch(self.kind):
            raise ConfigError(f"no projector is called {self.kind!r:.60}", expected=KINDS, got=self.kind)
        if min(self.in_dim, self.out_dim, self.merge) < 1:
            raise ConfigError(f"widths and merge start at 1: {self.in_dim}, {self.out_dim}, {self.merge}", limit=1)
        if self.kind == "identity" and self.in_dim != self.out_dim:
            raise ConfigError(f"identity cannot turn {self.in_dim} into {self.out_dim}", expected=self.in_dim)
        if self.odd not in ODD:
            raise ConfigError(f"odd is one of {', '.join(ODD)}", expected=ODD, got=self.odd)
        if self.compat not in (None, *COMPAT):
            raise ConfigError(f"compat is one of {', '.join(COMPAT)}", expected=tuple(COMPAT), got=self.compat)
        for option, given, kinds in (
            ("merge", self.merge != 1, MERGING),
            ("odd", self.odd != "error", ("spatial_merge", "pooler")),
            (f"compat={self.compat!r}", self.compat is not None, (COMPAT.get(self.compat or ""),)),
            ("eps", self.eps != NORM_EPS, ("spatial_merge", "patch_merger", "pixel_shuffle", "soft_tokens")),
            ("norm_out", self.norm_out and self.kind == "identity", ()),
        ):
            if given and self.kind not in kinds:
                raise ConfigError(f"{option} means nothing to {self.kind}", expected=kinds, got=self.kind)

    @property
    def mlp(self) -> tuple[int, int]:
        """Matrices and residual blocks of an mlp kind."""
        found = _MLP.fullmatch(self.kind)
        if found is None:
            raise ConfigError(f"{self.kind} is not an mlp", got=self.kind)
        return int(found[1]), int(found[2] or 0)
