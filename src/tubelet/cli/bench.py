"""`tubelet bench`: the encoders here against where they came from, on this machine."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tubelet.cli.options import OutputOptions, option
from tubelet.cli.progress import progress
from tubelet.cli.terminal import OK, Terminal, UsageError
from tubelet.errors import near_names

if TYPE_CHECKING:
    from rich.table import Table

FAMILIES = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "siglip2",
    "pixtral",
    "siglip",
    "clip",
    "mlcd",
    "dinov2",
    "dinov3_vit",
    "aimv2",
)


@dataclass(frozen=True)
class Bench:
    """Time tubelet's encoders against transformers' and timm's towers of the same shape and weights, on this machine.

    Random weights, nothing is downloaded. Outputs are compared first; then both take turns, so that whatever else the
    machine does hits both. "share" is useful FLOPs over time, against bare matrix products of the same type in the same
    run. Needs transformers, and timm for NaFlexViT: pip install "tubelet[hf,timm]".

    --explain compares nothing: it says by which routines this machine multiplies and attends in each type, and how that
    was found.

    Example: tubelet bench --family qwen2_5_vl,siglip2 --dtype float32
    """

    family: Annotated[str, option("which, with commas (default: qwen2_vl,qwen2_5_vl,siglip2)", "NAME,...")] = (
        "qwen2_vl,qwen2_5_vl,siglip2"
    )
    all: Annotated[bool, option("every family")] = False
    mix: Annotated[
        Literal["small16", "mix8", "mix32", "one"],
        option("the pictures of towers that take any size; the others get 16 squares (default: small16)"),
    ] = "small16"
    dtype: Annotated[str, option("float32, bfloat16, float16 or several, with commas (default: float32)", "T,...")] = (
        "float32"
    )
    threads: Annotated[str | None, option("threads of torch, such as 1,2 (default: as torch is)", "N,...")] = None
    layers: Annotated[int, option("depth of the towers (default: 2)", "N")] = 2
    hidden: Annotated[int, option("width; heads of 64, MLP of 4 times (default: 768)", "N")] = 768
    rounds: Annotated[int, option("turns each takes (default: 3)", "N")] = 3
    device: Annotated[Literal["cpu", "cuda"], option("where (default: cpu)")] = "cpu"
    explain: Annotated[bool, option("only say what multiplies and attends here, measured once a machine")] = False
    output: OutputOptions = OutputOptions()

    def run(self, terminal: Terminal) -> int:
        """Do it; the exit code."""
        names = FAMILIES if self.all else tuple(self.family.split(","))
        types, counts = tuple(self.dtype.split(",")), self._threads()
        _check("--family", names, FAMILIES)
        _check("--dtype", types, ("float32", "bfloat16", "float16"))
        if min(self.layers, self.rounds) < 1 or self.hidden < 64 or self.hidden % 64:
            raise UsageError("--layers and --rounds start at 1, --hidden is a multiple of 64")
        if self.explain:
            return _explain(terminal, types)
        from tubelet.encoder.device import device_of
        from tubelet.inspect.speed.encoders import Case, peers_missing, run
        from tubelet.inspect.speed.towers import TOWERS, Shape
        from tubelet.inspect.speed.turns import machine

        device_of(self.device)
        towers = [t for name in names for t in TOWERS if t.family == name]
        absent = peers_missing(towers)
        if "transformers" in absent:
            raise UsageError('the peers are not installed: pip install "tubelet[hf,timm]"')
        towers = [t for t in towers if t.peer.split()[0] not in absent]
        shape = Shape(self.hidden, self.hidden // 64, 4 * self.hidden, self.layers)
        cases = [
            Case(t, shape, self.mix, kind, count, self.device, self.rounds)
            for t in towers
            for kind in types
            for count in counts
        ]
        results: dict[str, Any] = {}
        with progress(terminal, len(cases)) as tick:
            for i, case in enumerate(cases):
                tick(case.name, i)
                results[case.name] = run(case)
        terminal.show(table(results))
        terminal.document({"command": "bench", "machine": machine(), "missing": absent, "results": results})
        return OK

    def _threads(self) -> tuple[int | None, ...]:
        if self.threads is None:
            return (None,)
        try:
            counts = tuple(int(n) for n in self.threads.split(","))
        except ValueError as e:
            raise UsageError(f"--threads {self.threads}: numbers with commas, such as 1,2") from e
        if min(counts) < 1:
            raise UsageError("--threads starts at 1")
        return counts


def _explain(terminal: Terminal, types: tuple[str, ...]) -> int:
    import torch

    from tubelet.encoder.cpu import work_dtype
    from tubelet.encoder.kernels import chosen, cpu_model, kept_in

    found: dict[str, Any] = {}
    lines: list[str] = []
    for name in types:
        work = work_dtype(getattr(torch, name))
        choice = chosen(work)
        found[name] = {"works_in": str(work).removeprefix("torch."), **choice._asdict()}
        times = ", ".join(f"{routine} {s * 1e3:.1f} ms" for routine, s in choice.seconds.items())
        works = "" if found[name]["works_in"] == name else f" (computed in {found[name]['works_in']})"
        rows = choice.sigmoid_rows
        attention = "sdpa" if rows is None else f"sigmoid from {rows} rows of a segment on"
        lines.append(f"{name}{works}: {choice.products}, {attention}, {choice.why}{': ' + times if times else ''}")
    lines.append(f"{cpu_model()}, torch {torch.__version__}, {torch.get_num_threads()} threads; kept in {kept_in()}")
    if not terminal.json:
        terminal.line("\n".join(lines))
    terminal.document({"command": "bench", "cpu": cpu_model(), "kept_in": str(kept_in()), "products": found})
    return OK


def _check(flag: str, given: tuple[str, ...], known: tuple[str, ...]) -> None:
    for name in given:
        if name not in known:
            raise UsageError(f"there is no {flag} {name}{near_names(name, known)}; there are {', '.join(known)}")


def table(results: dict[str, Any]) -> "Table":
    """One line for each comparison."""
    from rich import box
    from rich.table import Table

    out = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    out.add_column("against", overflow="fold")
    for name in ("tokens", "ours ms", "peer ms", "faster", "in CPU time", "share", "peer's", "memory MiB", "peer's "):
        out.add_column(name, justify="right", no_wrap=True)
    for name, r in results.items():
        peer = next(iter(r["ratios"]))
        ours, theirs = r["times"]["tubelet"], r["times"][peer]
        share = r["share_of_gemm"]
        noisy = " ~" if r["noisy"] else ""
        out.add_row(
            name,
            f"{r['tokens']:,}",
            f"{ours['wall_s'] * 1e3:,.0f}",
            f"{theirs['wall_s'] * 1e3:,.0f}",
            f"{r['ratios'][peer]['wall']:.2f}x{noisy}",
            f"{r['ratios'][peer]['cpu']:.2f}x",
            f"{share['tubelet']:.2f}",
            f"{share[peer]:.2f}",
            "" if ours["peak_extra_mib"] is None else f"{ours['peak_extra_mib']:,.0f}",
            "" if theirs["peak_extra_mib"] is None else f"{theirs['peak_extra_mib']:,.0f}",
        )
    return out
