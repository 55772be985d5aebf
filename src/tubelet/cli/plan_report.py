"""What `tubelet plan` says: tables for people, further fields for programs."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from tubelet.cli.plan_fleet import fleet_table
from tubelet.cli.terminal import megabytes, seconds, visible
from tubelet.inspect.budget.fit import Fitted
from tubelet.inspect.budget.memory import Dtype
from tubelet.inspect.budget.values import Plan
from tubelet.pixels.views import PageCrops, Pyramid

if TYPE_CHECKING:
    from tubelet.inspect.budget.outline import ModelOutline

DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16", "float16")
MODES = ("inference", "training", "checkpointed")
MOST_ROWS = 40


def extras(
    found: Plan,
    fitted: Sequence[Fitted],
    rate: float | None,
    device: Literal["cpu", "cuda"],
    outline: "ModelOutline | None" = None,
    *,
    memory: bool = True,
) -> dict[str, Any]:
    """Memory in every type and mode where it is asked for, KV cache, weights of the language model, what fits, and the
    time at the measured rate, as plain values."""
    more: dict[str, Any] = {"device": device, "memory_bytes": {}}
    modes = MODES if found.after.geometry is None else MODES[:1]
    if memory and (found.config is not None or found.after.geometry is not None):
        for dtype in DTYPES:
            of = {mode: found.memory(dtype=dtype, mode=mode, device=device) for mode in modes}
            more["memory_bytes"][dtype] = {
                "weights": of["inference"].weights_bytes,
                "projector": found.projector_bytes(dtype),
                **{mode: m.total_bytes for mode, m in of.items()},
                "peak_at": of["inference"].where,
            }
    if outline is not None and outline.language is not None and found.after.llm == outline.after.llm:
        more["language_model_bytes"] = {dtype: outline.language_bytes(dtype) for dtype in DTYPES}
    elif found.language_bytes() is not None:
        more["language_model_bytes"] = {dtype: found.language_bytes(dtype) for dtype in DTYPES}
    if found.after.geometry is not None:
        from tubelet.inspect.budget.scene_cost import scene_cost  # with torch, which counting does without

        if (cost := scene_cost(found)) is not None:
            more["scene_attention"] = asdict(cost)
            more["warnings"] = [cost.text]
    if found.after.llm is not None:
        more["llm"] = found.after.llm.name
        more["kv_cache_bytes"] = {dtype: found.kv_bytes(dtype) for dtype in ("bfloat16", "float32")}
    if rate is not None:
        more["gemm_flop_per_s"] = rate
        more["seconds_at_gemm_rate"] = found.flop / rate
    if fitted:
        more["fits"] = [asdict(f) for f in fitted]
    return more


def plan_table(found: Plan, more: dict[str, Any]) -> Group:
    """Inputs, stages, memory, and a line for each further answer."""
    parts: list[Any] = [_inputs(found), _stages(found)]
    if more["memory_bytes"]:
        parts.append(_memory(more["memory_bytes"], more["device"]))
    if more.get("fits"):
        parts.append(_fits(more["fits"]))
    if "fleet" in more:
        parts.append(fleet_table(more["fleet"]))
    return Group(*parts, *_lines(found, more))


def _columns(table: Table, *names: str) -> Table:
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _grid(grid: Sequence[int]) -> str:
    return " x ".join(f"{n:,}" for n in grid)


def _inputs(found: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=True)
    count = len(found.items)
    table.add_column("input", f"{count:,} inputs" if count != 1 else "1 input", overflow="fold")
    _columns(table, "size", "frames", *(("views",) if found.views else ()), "resized", "grid")
    for name, total in (
        ("patches", found.patches),
        ("tokens", found.tokens),
        ("positions" if found.views else "M-RoPE", found.extent),
    ):
        table.add_column(name, f"{total:,}", justify="right", no_wrap=True)
    for i, item in enumerate(found.items[:MOST_ROWS]):
        one = item.input
        views = (str(len(item.views)),) if found.views else ()
        sizes = (f"{one.width} x {one.height}", f"{one.frames:,}", *views, f"{item.width} x {item.height}")
        counts = (sum(g.rows for g in item.grids), item.tokens, item.extent)
        name = Text(visible(one.name) or f"input {i}")
        for note in item.notes:
            name += Text(f"\n  {visible(note)}", style="dim")
        table.add_row(name, *sizes, _grid(item.grid), *(f"{n:,}" for n in counts))
    if count > MOST_ROWS:
        table.add_row(Text(f"... and {count - MOST_ROWS:,} more (--json lists all)", style="dim"))
    return table


def _stages(found: Plan) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_footer=found.flop > 0)
    table.add_column("stage", "all")
    _columns(table, "shape")
    if found.flop:
        table.add_column("GFLOP", f"{found.flop / 1e9:,.2f}", justify="right", no_wrap=True)
        _columns(table, "of which attention")
    for s in found.stages:
        flops = [f"{n / 1e9:,.2f}" if n else "" for n in (s.flop, s.attention_flop)]
        table.add_row(s.name, s.shape_text, *(flops if found.flop else ()))
    return table


def _memory(memory: dict[str, dict[str, Any]], device: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(f"memory ({device})")
    heads = {"weights": "weights", "inference": "inference", "training": "training"}
    heads["checkpointed"] = "training, checkpointed"
    known = [k for k in heads if all(k in of for of in memory.values())]
    _columns(table, *(heads[k] for k in known))
    for dtype, of in memory.items():
        table.add_row(dtype, *(megabytes(of[k]) for k in known))
    return table


def _fits(fits: Sequence[dict[str, Any]]) -> Table:
    """What goes into the budget in place of each input: nothing changed, another size, another number of frames."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("fits the budget", overflow="fold")
    _columns(table, "as it is", "largest size", "or most frames", "a second")
    for i, f in enumerate(fits[:MOST_ROWS]):
        frames, size = f["frames"], f["size"]
        table.add_row(
            Text(visible(f["input"]["name"]) or f"input {i}"),
            "yes" if (frames or 0) >= f["input"]["frames"] else "no",
            "-" if size is None else f"{size[0]} x {size[1]}",
            "none" if frames is None else f"{frames:,}",
            "" if f["fps"] is None else f"{f['fps']:.3g}",
        )
    if len(fits) > MOST_ROWS:
        table.add_row(Text(f"... and {len(fits) - MOST_ROWS:,} more (--json lists all)", style="dim"))
    return table


def _lines(found: Plan, more: dict[str, Any]) -> list[Text]:
    recipe = found.recipe
    budget = "" if recipe.max_pixels is None else f", at most {recipe.max_pixels:,} pixels"
    kept = "all tokens" if found.after.select is None else f"at most {found.after.select:,} tokens of each input"
    lines = [Text(f"rule    sizes by {recipe.rule}{budget}; {_views(found)}; {kept}")]
    if "kv_cache_bytes" in more:
        lines.append(Text(f"cache   {megabytes(more['kv_cache_bytes']['bfloat16'])} in {more['llm']}, bfloat16"))
    if "seconds_at_gemm_rate" in more:
        rate, spent = more["gemm_flop_per_s"] / 1e9, seconds(more["seconds_at_gemm_rate"])
        lines.append(Text(f"time    {spent} or more, at {rate:,.0f} GFLOP/s as measured for matrix products"))
    if more["memory_bytes"]:
        lines.append(Text(f"memory  tensors of {_whose(found)}; the runtime and the allocator need more"))
    if "language_model_bytes" in more:
        lines.append(Text(f"beside  {megabytes(more['language_model_bytes']['bfloat16'])} of language model, bfloat16"))
    lines += [Text(f"note    {text}") for text in more.get("warnings", ())]
    return lines


def _whose(found: Plan) -> str:
    if found.after.geometry is not None:
        return f"the {'' if found.config is None else 'encoder and the '}geometry network"
    return f"the encoder{'' if found.projection is None else ' and projector'}, training with AdamW"


def _views(found: Plan) -> str:
    rule = found.views
    if rule is None:
        return "one view of each input"
    if isinstance(rule, Pyramid):
        return "views at " + ", ".join(f"{canvas} pixels in tiles of {tile}" for canvas, tile in rule.levels)
    if isinstance(rule, PageCrops):
        return f"at most {rule.most} crops of {rule.tile} pixels along the page, {rule.overlap:.0%} overlap"
    pool = "not pooled" if rule.pool is None else f"{rule.pool} pool"
    joins = {"flat": "one after the other", "spatial": "tiles joined"}
    join = joins.get(rule.join, "tiles joined and unpadded, newlines counted")
    cut = "a global view and tiles of" if rule.cuts else "each picture whole on"
    return f"{cut} {rule.tile} pixels, {pool}, {join}"
