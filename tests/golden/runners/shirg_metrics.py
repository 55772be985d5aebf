"""golden/shirg upstream_metrics: the numbers SHIRG's own validation printed, by upstream's formulas."""

import torch
from tests.golden.upstream import shirg_metrics as upstream

from ..cases import Case


def run_upstream_metrics(case: Case) -> None:
    baseline, highres, selected, image = (case.inputs[k] for k in ("baseline", "highres", "selected", "image"))
    got = {
        "token_diversity": upstream.token_diversity(selected),
        "semantic_consistency": upstream.semantic_consistency(baseline, selected),
        "information_preservation": upstream.information_preservation(image, selected),
        "spatial_coherence": upstream.spatial_coherence(highres, selected),
        "ocr_preservation": upstream.ocr_preservation(baseline, selected),
        "edge_responsiveness": upstream.edge_responsiveness(selected),
        "frequency_preservation": upstream.frequency_preservation(baseline, selected),
        "magnitude_consistency": upstream.magnitude_consistency(baseline, selected),
        "font_size_preservation": upstream.font_size_preservation(baseline, selected),
        "text_spatial_continuity": upstream.text_spatial_continuity(highres),
        "high_frequency": upstream.high_frequency(selected),
        "contrast": upstream.contrast(selected),
    }
    for name, value in got.items():
        case.check(name, torch.tensor([value], dtype=torch.float64))
