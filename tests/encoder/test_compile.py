"""torch.compile on the layer stack: one graph, no breaks, and a new mix of items does not compile again.

Runs in a fresh interpreter: the shape checks that tests put around every function are not part of the library.
"""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import sys, torch, torch._dynamo
from tubelet.encoder.options import RunOptions
from torch._dynamo.testing import CompileCounterWithBackend
from tests.encoder.encoder_cases import make, make_merging, make_pack
from tests.encoder.test_options import build
from tests.encoder.test_spans import build_spans

mixes = [((1, 5, 7), (3, 2, 4)), ((1, 4, 4),), ((2, 3, 3), (1, 9, 2), (1, 1, 1), (4, 2, 2)), ((1, 6, 6), (1, 6, 6))]
builds = {
    "plain": [(make, 1), (make_merging, 2)],
    "options": [(lambda: build('dinov3'), 1), (lambda: build('windows'), 2)],
    "spans": [(lambda: build_spans('windows behind prefixes'), 2)],
    "frames": [(lambda: build_spans('windows in two frames'), 1)],
}[sys.argv[1]]
for one, merge in builds:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    plain, compiled = one(), one().set_run_options(RunOptions(compile=counter))
    frames = None
    for grids in mixes:
        p = make_pack(tuple((t, h * merge, w * merge) for t, h, w in grids), merge=merge)
        expected = plain(p)
        torch.testing.assert_close(compiled(p).x, expected.x, atol=2e-5, rtol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(compiled(p).x, expected.x, atol=2e-5, rtol=1e-5)
        frames = frames or counter.frame_count
        assert counter.frame_count == frames, f"{grids} compiled again: {frames} -> {counter.frame_count}"
    p = make_pack(((1, 2 * merge, 2 * merge),), merge=merge)
    for encoder in (plain, compiled):
        encoder.zero_grad()
        encoder(p).x.square().mean().backward()
    for (name, a), b in zip(plain.named_parameters(), compiled.parameters()):
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, atol=1e-5, rtol=1e-4, msg=name)
print("compiled", frames)
"""


@pytest.mark.parametrize(
    "builds", ["spans", *(pytest.param(b, marks=pytest.mark.slow) for b in ("plain", "options", "frames"))]
)
def test_layer_stack_compiles_once_for_every_mix(builds: str) -> None:
    root = Path(__file__).parents[2]  # from which `tests` can be imported
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM, builds], cwd=root, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("compiled")
