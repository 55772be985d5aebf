"""`tubelet convert`: a checkpoint in another format of its family, compared with what it was made from."""

from dataclasses import dataclass
from typing import Annotated, Literal

from tyro.conf import Positional

from tubelet.cli.options import OutputOptions, option
from tubelet.cli.terminal import OK, Terminal, UsageError, file_name, megabytes, visible
from tubelet.errors import ConfigError, near_names


@dataclass(frozen=True)
class Convert:
    """Write a checkpoint in another format, read it back and report the largest difference of its outputs.

    OUT becomes a folder with config.json, model.safetensors and conversion.json; it appears whole or not at all. With
    --to projector SOURCE is LLaVA's mm_projector.bin or a checkpoint with one, and OUT gets mm_projector.safetensors.

    With --projector, the spatial_merge or patch_merger projector of a LLaVA becomes the merger of LLaVA-OneVision-2's
    vision tower (--to ov2); say which hidden state it was trained on, LLaVA's mm_vision_select_layer.

    Example: tubelet convert weights/ov-large ov-large-packing --to packing
    Example: tubelet convert llava/mm_projector.bin out --to projector --config spatial_merge --unsafe-pickle
    """

    source: Positional[Annotated[str, option("a folder, a safetensors file or a hub id", "SOURCE")]]
    out: Positional[Annotated[str, option("the folder to write", "OUT")]]
    to: Annotated[str, option("the format to write (tubelet models lists them), or projector", "FORMAT")]
    config: Annotated[
        str | None, option("the variant (of a projector the kind) it is, where no config.json says so", "NAME")
    ] = None
    variant: Annotated[
        str | None, option("the variant the result must be; custom allows any shape (default: its counterpart)", "NAME")
    ] = None
    drop: Annotated[
        tuple[Literal["pool", "merger", "spans"], ...],
        option("parts to give up that the format has no place for: pool, merger, spans", "PART..."),
    ] = ()
    projector: Annotated[
        str | None, option("a projector to fold in as the tower's merger, with --to ov2", "PROJECTOR")
    ] = None
    select_layer: Annotated[
        int | None, option("with --projector: the hidden state it was trained on, -1 is the last layer's", "N")
    ] = None
    eps: Annotated[
        Literal["source", "upstream"], option("keep the eps, or write upstream's 1e-6 (default: source)")
    ] = "source"
    unsafe_pickle: Annotated[bool, option("read a .pt, .pth, .bin or .ckpt file, in a confined process")] = False
    overwrite: Annotated[bool, option("replace OUT if it is there")] = False
    output: OutputOptions = OutputOptions()

    def run(self, terminal: Terminal) -> int:
        """Do it; the exit code."""
        from tubelet.weights.save import checkpoint_place

        checkpoint_place(self.out, self.overwrite)
        if self.to == "projector":
            return self._projector(terminal)
        from tubelet.families.catalogue import families
        from tubelet.language.project.files import fold_of, load_projector
        from tubelet.weights.convert import convert

        known = list(dict.fromkeys(fmt for family in families() for fmt in family.formats))
        if self.to not in known:
            near = near_names(self.to, [*known, "projector"])
            raise UsageError(f"there is no format {self.to[:40]}{near}; --to takes {', '.join(known)} or projector")
        if (self.projector is None) != (self.select_layer is None) or (self.projector and self.to != "ov2"):
            raise UsageError("--projector PROJECTOR and --select-layer N go together, with --to ov2")
        fold = None
        if self.projector is not None and self.select_layer is not None:
            fold = fold_of(load_projector(self.projector, kind="spatial_merge"), self.select_layer)
        try:
            report = convert(
                self.source,
                self.out,
                self.to,
                config=self.config,
                variant=self.variant,
                drop=self.drop,
                fold=fold,
                eps=self.eps,
                unsafe_pickle=self.unsafe_pickle,
                overwrite=self.overwrite,
            )
        except ConfigError as e:
            raise e.placed(source=file_name(self.source)) from e.__cause__
        terminal.document({"command": "convert", **report.as_dict()})
        if not terminal.json and not terminal.quiet:
            pooled = report.max_abs_diff_pooled
            lines = {
                "wrote": f"{visible(report.out)}: {report.to_format} format, from {report.from_format}",
                "network": f"{report.variant or 'custom'}, eps {report.eps:g}, head eps {report.head_eps:g}",
                "tensors": f"{report.tensors:,}, {megabytes(report.bytes)}, "
                f"{'bit for bit the same' if report.bit_equal else 'NOT the same bits'}",
                "tokens": f"max abs difference {report.max_abs_diff:g}",
                "pooled": "no pooling head" if pooled is None else f"max abs difference {pooled:g}",
            }
            if report.dropped:
                lines["dropped"] = ", ".join(report.dropped)
            if report.skipped:
                lines["skipped"] = f"{len(report.skipped)} entries without tensors: {', '.join(report.skipped[:5])}"
            for name, text in lines.items():
                terminal.line(f"{name:<8}{visible(text)}")
        return OK

    def _projector(self, terminal: Terminal) -> int:
        from tubelet.language.project.files import FILE, convert_projector

        if self.variant is not None or self.drop or self.eps != "source" or self.projector or self.select_layer:
            raise UsageError("--variant, --drop, --projector, --select-layer and --eps have no meaning for a projector")
        try:
            report = convert_projector(
                self.source, self.out, kind=self.config, unsafe_pickle=self.unsafe_pickle, overwrite=self.overwrite
            )
        except ConfigError as e:
            if self.config is None and isinstance(e.expected, tuple):
                e.message += ", " + " or ".join(f"--config {kind}" for kind in e.expected)
            raise
        terminal.document({"command": "convert", **report.as_dict()})
        if not terminal.json and not terminal.quiet:
            merge = f", merge {report.merge}" if report.merge > 1 else ""
            lines = {
                "wrote": f"{visible(report.out)}: {FILE}",
                "kind": f"{report.kind}, {report.in_dim} -> {report.out_dim}{merge}",
                "tensors": f"{report.tensors:,}, {megabytes(report.bytes)}, bit for bit the same",
            }
            if report.ignored:
                lines["left out"] = f"{len(report.ignored)} other tensors: {', '.join(report.ignored[:5])}"
            if report.skipped:
                lines["skipped"] = f"{len(report.skipped)} entries without tensors: {', '.join(report.skipped[:5])}"
            for name, text in lines.items():
                terminal.line(f"{name:<9}{visible(text)}")
        return OK
