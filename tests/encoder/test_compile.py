"""torch.compile on the layers: one graph a kind, no breaks, and a new mix of items does not compile again.

Runs in processes of their own: the shape checks that tests put around every function are not part of the library.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.forked import Forked

MIXES = """
import sys, torch, torch._dynamo
from dataclasses import replace
from tubelet.encoder.options import RunOptions
from torch._dynamo.testing import CompileCounterWithBackend
from tests.encoder.encoder_cases import make, make_merging, make_pack
from tests.encoder.test_options import build
from tests.encoder.test_spans import build_spans

mixes = [  # the first has as many rows as cu_seqlens has values; then one item, pictures and clips mixed, one row
    ((1, 1, 1), (1, 1, 1), (1, 2, 1)),
    ((1, 5, 7), (3, 2, 4)),
    ((1, 4, 4),),
    ((1, 1, 1),),
    ((2, 3, 3), (1, 9, 2), (1, 1, 1), (4, 2, 2)),
    ((8, 2, 2),),
    ((1, 6, 6), (1, 6, 6)),
    ((1, 1, 2),),
]
builds = {
    "plain": [(make, 1), (make_merging, 2)],
    "options": [(lambda: build('dinov3'), 1), (lambda: build('windows'), 2)],
    "spans": [(lambda: build_spans('windows behind prefixes'), 2)],
    "frames": [(lambda: build_spans('windows in two frames'), 1)],
}[sys.argv[1]]
for one, merge in builds:
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    plain, compiled = one(), one().set_run_options(RunOptions(compile=counter))
    plain.set_run_options(RunOptions(compile=None))
    frames = None
    for grids in mixes:
        p = make_pack(tuple((t, h * merge, w * merge) for t, h, w in grids), merge=merge)
        expected = plain(p)
        torch.testing.assert_close(compiled(p).x, expected.x, atol=2e-5, rtol=1e-5)
        with torch.no_grad():
            torch.testing.assert_close(compiled(p).x, expected.x, atol=2e-5, rtol=1e-5)
            for a, b in zip(compiled.hidden_states(p, only=(0, 1)), plain.hidden_states(p, only=(0, 1))):
                torch.testing.assert_close(a.x, b.x, atol=2e-5, rtol=1e-5)
        frames = frames or counter.frame_count
        assert counter.frame_count == frames, f"{grids} compiled again: {frames} -> {counter.frame_count}"
    kinds = len({layer.span for layer in compiled.layers})
    # with gradients and without, whatever the depth; torch begins the first of a process twice, for its floats
    assert 0 <= frames - 2 * kinds <= 1, f"{frames} graphs for {kinds} kinds of {len(compiled.layers)} layers"
    p = make_pack(((1, 2 * merge, 2 * merge), (2, 2 * merge, merge)), merge=merge)
    compiled.set_run_options(replace(compiled.options, gradient_checkpointing=True, rows_ahead=9))
    torch.testing.assert_close(compiled(p).x, plain(p).x, atol=2e-5, rtol=1e-5)
    assert counter.frame_count == frames, "another option compiled again"
    for recompute in (False, True):
        compiled = one().set_run_options(RunOptions(compile="aot_eager", gradient_checkpointing=recompute))
        for encoder in (plain, compiled):
            encoder.zero_grad()
            encoder(p).x.square().mean().backward()
        for (name, a), b in zip(plain.named_parameters(), compiled.parameters()):
            if a.grad is not None:
                torch.testing.assert_close(b.grad, a.grad, atol=1e-5, rtol=1e-4, msg=name)
print("compiled", frames)
"""

KEPT = """
import copy, pickle, torch
from tubelet.encoder.options import RunOptions
from tubelet.errors import ConfigError
from tests.encoder.encoder_cases import make, make_pack

encoder, p = make().set_run_options(RunOptions(compile="aot_eager")), make_pack(((1, 3, 4), (2, 2, 2), (1, 5, 1)))
with torch.no_grad():
    whole = encoder(p).x
    ill = p.with_x(p.x.clone())
    ill.x[12:20] = torch.nan  # the second item
    out = encoder(ill).x
    assert out[12:20].isnan().all() and torch.equal(out[:12], whole[:12]) and torch.equal(out[20:], whole[20:])
    for other in (copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert torch.equal(other(p).x, whole)
        other.layers[0].fc2.weight.zero_()
        assert not torch.equal(other(p).x, whole), "a copy runs its own weights"
    assert torch.equal(encoder(p).x, whole)
    try:
        make().set_run_options(RunOptions(compile="inductr"))(p)
    except ConfigError as e:
        assert "inductor" in e.expected and "no backend inductr" in str(e)
    else:
        raise AssertionError("a backend there is none of")
print("kept")
"""

AUTO = """
import torch
from tubelet.encoder import compiled
from tubelet.encoder.options import RunOptions
from tests.encoder.encoder_cases import make, make_pack

p, told = make_pack(((1, 3, 4), (2, 2, 2))), []
unit = 3 * 64  # layers x width
plain = make()
compiled.PAYS = {("cpu", True): 5000 * unit, ("cpu", False): 50 * unit}
auto = make().set_run_options(RunOptions(say=told.append))
auto(p)
auto.set_run_options(RunOptions(rows_ahead=4999, say=told.append))
auto(p)
assert not told, told
auto.set_run_options(RunOptions(rows_ahead=5000, say=told.append))
torch.testing.assert_close(auto(p).x, plain(p).x, atol=2e-5, rtol=1e-5)
assert len(told) == 2, told
print(*told, sep="; ")
auto(p)
assert len(told) == 2, told
handle = auto.layers[1].register_forward_hook(lambda *_: None)
with torch.no_grad():
    for _ in range(3):  # 20 rows each: the third call would be worth it, but for the hook
        auto(p)
    handle.remove()
    auto = make().set_run_options(RunOptions(say=told.append))
    for calls in range(3):
        assert auto._compiled.wanted(p.x, auto.layers) == (calls == 2), calls
"""


NO_COMPILER = "import torch._inductor.config\ntorch._inductor.config.cpp.cxx = (None, 'no-such-compiler')\n"
Run = Callable[..., str]


@pytest.fixture
def run(forked: Forked, tmp_path: Path) -> Run:
    def python(program: str, *args: str) -> str:
        root = Path(__file__).parents[2]  # from which `tests` can be imported
        begin = "import warnings\nwarnings.simplefilter('ignore')\n"
        done = forked(["-c", begin + program, *args], root, {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return python


def test_one_graph_serves_every_mix_items_stay_apart_and_no_compiler_is_needed(run: Run) -> None:
    """In one process, for torch's compilers alone take seconds to import."""
    said = run(NO_COMPILER + MIXES + KEPT + AUTO, "spans").splitlines()
    assert [line.split()[0] for line in said[:2]] == ["compiled", "kept"]
    assert "; the layers could not be compiled and run as they are: " in said[2]


@pytest.mark.slow
@pytest.mark.parametrize("builds", ["plain", "options", "frames"])
def test_other_layers_compile_once_for_every_mix(run: Run, builds: str) -> None:
    assert run(MIXES, builds).startswith("compiled")


@pytest.mark.slow
def test_auto_compiles_when_it_pays_and_says_so(run: Run) -> None:
    assert run(AUTO).startswith("compiling the encoder's layers for training, once; compiled the encoder's layers in ")
