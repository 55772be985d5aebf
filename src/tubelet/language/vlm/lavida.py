"""The way from pictures to a language model's rows as LaViDa and LLaVA go it, whole or by choice.

    pictures -> views -> encoder, hidden state `depth` -> projector -> pool -> join -> rows with places, newlines too
                                 |                  ^      rows that were chosen are not pooled
                                 |                  +-- choose(rows, scoring)
                                 all layers, final norm: the same rows to score by

LaViDa's tower is SigLIP so400m without its last layer: state 26, which no norm has touched. Its pool comes after the
projector; an MLP and a pool do not change places.
Source: rkawamura0483/LaViDa_mod:llava/model/llava_arch.py and multimodal_encoder/siglip_encoder.py@cff2211.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from tubelet.encoder.config import EncoderConfig
from tubelet.encoder.model import Encoder
from tubelet.errors import ConfigError
from tubelet.families.fields import refuse_code
from tubelet.families.siglip import SIGLIP
from tubelet.language.project.files import load_projector
from tubelet.language.project.projector import Projector
from tubelet.language.vlm.llava import llava_views
from tubelet.language.vlm.llava_tensors import read_newline
from tubelet.packed import Packed
from tubelet.pixels.patchify import patchify
from tubelet.pixels.recipe import PixelRecipe
from tubelet.pixels.views_plan import LAVIDA, POOLS, ViewRule
from tubelet.reading.clip import Clip
from tubelet.reduce.join import join_views, pooled_views
from tubelet.weights.load import load_encoder
from tubelet.weights.locate import Source, find_folder

LAVIDA_DEPTH = 26
LAVIDA_TOWER = replace(SIGLIP.variants["siglip_so400m_patch14_384"], layers=LAVIDA_DEPTH, pool=False)


@dataclass(frozen=True, eq=False)
class ViewFeatures:
    """Two copies of the same rows. rows: what the projector was trained on. scoring: what the tower's own text was
    trained against, after all its layers and its final norm; for `tubelet.reduce.relevance.in_joint_space` and scores,
    never for the projector."""

    rows: Packed
    scoring: Packed


Choose = Callable[[ViewFeatures], Packed]


class FrontEnd(nn.Module):
    """Pictures and clips in, rows in a language model's width out; defaults are LaViDa's.

    depth: number of the hidden state the projector reads, before any norm; 26 of SigLIP so400m's 27. newline: (D,), the
    learned row that ends each row of a joined grid, needed where rule.join is "unpad". Raises ConfigError where depth,
    widths or newline do not fit.

        >>> encoder = tubelet.untrained("siglip_base_patch16_224")
        >>> rule = ViewRule(224, ((224, 448), (448, 224)), pool="bilinear", join="unpad")
        >>> projector = tubelet.language.build_projector("mlp2x_gelu", 768, 64)
        >>> front = FrontEnd(encoder, projector, rule, depth=11, newline=torch.zeros(64))
        >>> front(tubelet.read("receipt.png")).lengths        # global, and two tiles with their newlines
        (49, 80)
    """

    def __init__(
        self,
        encoder: Encoder,
        projector: Projector,
        rule: ViewRule = LAVIDA,
        *,
        depth: int = LAVIDA_DEPTH,
        newline: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.encoder, self.projector, self.rule, self.depth = encoder, projector, rule, depth
        width = projector.config.out_dim
        if not 0 <= depth <= encoder.config.layers:
            raise ConfigError(f"hidden states count 0..{encoder.config.layers}", limit=encoder.config.layers, got=depth)
        if projector.config.in_dim != encoder.config.hidden:
            raise ConfigError(
                f"the projector reads {projector.config.in_dim} channels, a hidden state has {encoder.config.hidden}",
                expected=encoder.config.hidden,
                got=projector.config.in_dim,
            )
        if (newline is None) == (rule.join == "unpad") or (newline is not None and newline.shape != (width,)):
            raise ConfigError(
                f"views joined {rule.join} take " + (f"a newline of {width}" if rule.join == "unpad" else "no newline"),
                expected=width if rule.join == "unpad" else None,
                got=None if newline is None else tuple(newline.shape),
            )
        self.newline = None if newline is None else nn.Parameter(newline.detach().clone())

    @classmethod
    def from_pretrained(
        cls,
        source: Source,
        *,
        tower: EncoderConfig | None = None,
        encoder: Encoder | None = None,
        revision: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> "FrontEnd":
        """The front end of a LaViDa checkpoint: its tower, projector, pinpoints and newline. Nothing else is read.

        tower: SigLIP so400m of 26 layers without its head, if None; all layers of it are read up to the last. encoder:
        in place of the checkpoint's tower one with its last layer and its head, which scores by a text need. Its files
        say how views are joined; they are pooled 2 x 2 by mm_spatial_pool_mode, bilinear if that is absent, whatever
        stride they name, as LaViDa's code does. Raises what `load_encoder` raises, and ConfigError, KeyMismatch.
        """
        folder = find_folder(source, revision)
        config = folder.config() or {}
        refuse_code(config)
        depth = None if encoder is None else encoder.config.layers - 1
        if encoder is None:
            encoder = load_encoder(folder, config=LAVIDA_TOWER if tower is None else tower, dtype=dtype, device=device)
        plain = {k: v for k, v in config.items() if k != "mm_spatial_pool_stride"}
        rule = llava_views(plain, encoder.pixels)
        mode = config.get("mm_spatial_pool_mode", "bilinear")
        if rule is None or mode not in POOLS:
            raise ConfigError(
                "LaViDa's views are anyres, pooled bilinear, average or max",
                source=folder.name,
                got=(config.get("image_aspect_ratio"), mode),
            )
        projector = load_projector(folder, dtype=dtype, device=device)
        newline = read_newline(folder, dtype, device) if rule.join == "unpad" else None
        rule = replace(rule, pool=mode)
        depth = encoder.config.layers if depth is None else depth
        return cls(encoder, projector, rule, depth=depth, newline=newline).eval()

    @property
    def pixels(self) -> PixelRecipe:
        """The encoder's recipe with Pillow's filter, which LLaVA's code resizes with."""
        return replace(self.encoder.pixels, resampler="pillow")

    def patchify(self, clips: Sequence[Clip]) -> Packed:
        """Patches of the views of each clip; of LaViDa's at most 5 views of 729. Raises ShapeError naming the clip."""
        return patchify(clips, self.pixels, views=self.rule)

    def features(self, patches: Packed) -> ViewFeatures:
        """Hidden state `depth`, and the same rows after all layers and the final norm, from one run of the encoder."""
        made = self.encoder.features(patches, only=(self.depth,), pool=False)
        return ViewFeatures(made.hidden[0], made.trunk)

    def forward(self, clips: Sequence[Clip], choose: Choose | None = None) -> Packed:
        """Rows for `tubelet.place`, clip after clip: of a picture the global view, then its joined tiles.

        choose: what is kept of the unpooled rows, such as `lambda seen: shirg(seen.rows, text, budget=980,
        features=in_joint_space(encoder, seen.scoring))`; the rows it gives are projected and joined and not pooled.
        Without it the layers after `depth` do not run. Differentiable in all weights. Syncs with the device.
        Raises ShapeError.
        """
        patches = self.patchify(clips).to(self.encoder.patch.weight.device)
        if choose is None:
            [seen] = self.encoder.hidden_states(patches, only=(self.depth,))
            rows = pooled_views(self.projector(seen), self.rule)
        else:
            rows = self.projector(choose(self.features(patches)))
        return join_views(rows, self.rule, self.newline)
