"""Bad and unusual pictures by seed (`--torture N`, two thirds of N): a typed error or the right pixels."""

import gc
import resource
from pathlib import Path

from tests.torture import torture_claims, torture_images
from tests.torture.torture_harness import Made, failures, spread, tubelet_target
from tests.torture.torture_images import png_file

OPEN_FILES = Path("/dev/fd")
CLAIMS = [kind for kind in torture_claims.KINDS if not kind.startswith("v")]
KINDS = [*torture_images.KINDS, *CLAIMS]


def make(kind: str, seed: int) -> Made:
    return (torture_claims if kind in CLAIMS else torture_images).make(kind, seed)


def test_every_kind_is_made_the_same_way_twice():
    for kind in KINDS:
        if not kind.startswith("bomb"):
            assert make(kind, 3).data == make(kind, 3).data


def test_bad_pictures_in_the_decoding_process(torture: int):
    wrong = failures(make, spread(KINDS, torture * 2 // 3), agree=True)
    assert not wrong, "\n".join(wrong)


def test_the_caller_keeps_its_memory_and_its_files(torture: int):
    cases = spread([kind for kind in KINDS if not kind.startswith("bomb")], max(torture // 3, 50))
    failures(make, cases[:20])
    gc.collect()
    files, memory = len(list(OPEN_FILES.iterdir())), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    failures(make, cases)
    gc.collect()
    assert len(list(OPEN_FILES.iterdir())) == files
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    assert grown < 60_000, f"{grown} KiB"


def test_a_header_that_asks_for_too_much_costs_nothing():
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(20):
        for kind in ("bomb_zeros", "lie_png", "lie_bmp", "lie_tiff"):
            tubelet_target(make(kind, seed).data)
    tubelet_target(png_file(2**31 - 1, 2**31 - 1))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 50_000
