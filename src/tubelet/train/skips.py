"""Steps that are skipped because something in them was not finite: counted, named, the end of the run after a few."""

from collections.abc import Sequence

from tubelet.errors import RunError
from tubelet.train.order import Batches
from tubelet.train.report import Figures, Report
from tubelet.train.resume import Progress


def judge_step(
    progress: Progress,
    good: bool,
    figures: Figures,
    flags: Sequence[float],
    batches: Batches,
    report: Report,
    most: int,
) -> None:
    """Count a step that was not `good` and name its samples. All ranks come to the same.

    flags: above 0 for each micro-batch of the step, over all ranks, whose loss is not finite; without any, all samples
    of the step are named. Raises RunError after `most` of them in a row.
    """
    if good:
        progress.skipped_in_a_row = 0
        return
    progress.skipped += 1
    progress.skipped_in_a_row += 1
    micros = [micro for rank in batches.at(figures.step) for micro in rank]
    guilty = [m for m in micros if flags[m.number]] or micros
    ids = sorted(i for m in guilty for i in m.ids)
    reason = "nothing was counted" if not figures.counted else f"loss {figures.loss}, gradient {figures.grad_norm}"
    message = f"step {figures.step:,} was skipped ({reason}): samples {ids}"
    report.event("skipped", message, {"step": figures.step, "samples": ids})
    if progress.skipped_in_a_row >= most:
        raise RunError(
            f"{progress.skipped_in_a_row} steps in a row were not finite; the last: {message}", limit=most, got=ids
        )
