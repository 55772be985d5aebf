"""A run that is killed again and again ends bit-equal to one that never was."""

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.train.runs import finish, killed_on_the_way, run_to_the_end, said, start, step_reached
from tests.train.train_toy import Behaviour, digest, tensors, toy_config

from tubelet.train.config import OptimizerConfig, SaveConfig, ScheduleConfig
from tubelet.train.manifest import newest_whole

STEPS = 28
EVENTS_OF_A_SAVE = 64  # openings, renames, removals, from the first folder to the last old file gone; about


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    run_to_the_end(toy_config(folder, steps=STEPS))
    return digest(folder)


def test_twelve_kills_at_random_moments(tmp_path: Path, unbroken: str):
    config = toy_config(tmp_path / "run", steps=STEPS)
    killed_on_the_way(config, 1, kills=12, seed=1)
    assert digest(config.folder) == unbroken


def die_inside_saves(folder: Path, moments: list[int], steps: int) -> str:
    """Kills at the n-th thing a save does to a file; after each the newest checkpoint is whole or there is none yet."""
    config = toy_config(folder, steps=steps)
    before = -1
    for n in moments:
        assert finish(start(config, 1, Behaviour(die_at=n))) == [-signal.SIGKILL], (n, said(config))
        found = newest_whole(folder)
        step = -1 if found.path is None else int(found.path.name[-8:])
        assert not found.broken and step >= before
        before = step
    run_to_the_end(config)
    return digest(folder)


def test_eight_kills_inside_saves(tmp_path: Path, unbroken: str):
    moments = [i * EVENTS_OF_A_SAVE // 8 for i in range(8)]
    assert die_inside_saves(tmp_path / "run", moments, STEPS) == unbroken


@pytest.mark.slow
def test_kills_at_every_moment_of_a_save(tmp_path: Path):
    run_to_the_end(toy_config(tmp_path / "unbroken", steps=120))
    died = die_inside_saves(tmp_path / "run", list(range(EVENTS_OF_A_SAVE)), 120)
    assert died == digest(tmp_path / "unbroken")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_two_hundred_kills(tmp_path: Path, seed: int):
    config = toy_config(tmp_path / "run", steps=48)
    run_to_the_end(replace(config, folder=tmp_path / "unbroken"))
    killed_on_the_way(config, 1, kills=20, seed=seed)
    assert digest(config.folder) == digest(tmp_path / "unbroken")


@pytest.mark.parametrize(
    ("strategy", "kills"),
    [
        ("ddp", 1),
        ("fsdp2", 1),
        pytest.param("ddp", 5, marks=pytest.mark.slow),
        pytest.param("fsdp2", 5, marks=pytest.mark.slow),
    ],
)
def test_kills_of_two_ranks(tmp_path: Path, strategy: str, kills: int):
    config = toy_config(
        tmp_path / "run", steps=6 * kills, strategy=strategy, accumulation=1, save=SaveConfig(3, None, keep=2)
    )
    run_to_the_end(replace(config, folder=tmp_path / "unbroken"), 2)
    killed_on_the_way(config, 2, kills, seed=kills)
    assert digest(config.folder) == digest(tmp_path / "unbroken")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_torchrun_is_asked_to_stop_and_is_killed(tmp_path: Path, strategy: str):
    """SIGTERM to the launcher reaches all ranks; SIGKILL to it alone leaves them running, and their folder locked."""
    config = toy_config(tmp_path / "run", steps=60, strategy=strategy, accumulation=1)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    command = [*launch, "tests.train.train_toy", str(config.folder), strategy, "60"]
    root = Path(__file__).parents[2]
    run_to_the_end(replace(config, folder=tmp_path / "unbroken"), 2)
    for number, target in ((signal.SIGTERM, 10), (signal.SIGKILL, 30)):
        with subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL) as launcher:
            while step_reached(config.folder) < target:
                assert launcher.poll() is None
                time.sleep(0.05)
            launcher.send_signal(number)
    end = time.monotonic() + 240
    while subprocess.run(command, cwd=root, stderr=subprocess.DEVNULL).returncode:  # until the orphans are done
        assert time.monotonic() < end
    assert digest(config.folder) == digest(tmp_path / "unbroken")


@pytest.mark.slow
def test_three_ranks_of_ddp(tmp_path: Path):
    """With three ranks the order of a sum depends on DDP's buckets, which it orders anew after its first backward."""
    config = toy_config(tmp_path / "run", steps=12, strategy="ddp", accumulation=1, save=SaveConfig(3, None))
    run_to_the_end(replace(config, folder=tmp_path / "unbroken"), 3)
    killed_on_the_way(config, 3, 2, seed=0)
    assert digest(config.folder) == digest(tmp_path / "unbroken")


def test_a_surviving_rank_holds_nobody_up_for_ever_and_spoils_nothing(tmp_path: Path):
    """Rank 0 is killed and rank 1 lives on, as when a launcher dies: the next start goes on from a whole checkpoint."""
    config = toy_config(tmp_path / "run", steps=8, strategy="ddp", accumulation=1)
    run_to_the_end(replace(config, folder=tmp_path / "unbroken"), 2)
    ranks = start(config, 2, Behaviour(die_at=30))
    ranks[0].join(120)
    assert ranks[0].exitcode == -signal.SIGKILL
    run_to_the_end(config, 2)
    finish(ranks)
    assert digest(config.folder) == digest(tmp_path / "unbroken")


def test_one_process_ddp_and_fsdp2_come_to_the_same(tmp_path: Path):
    """Dropout too: a micro-batch draws the same numbers on whatever rank it runs."""
    base = toy_config(tmp_path, steps=12, save=SaveConfig(), optimizer=OptimizerConfig(lr=1e-3, eps=1e-4))
    for strategy, world in (("one", 1), ("ddp", 2), ("fsdp2", 2)):
        config = replace(base, folder=tmp_path / strategy, strategy=strategy, accumulation=4 // world)
        run_to_the_end(config, world)
    for part in ("model", "ema"):
        one = tensors(tmp_path / "one", part)
        for strategy in ("ddp", "fsdp2"):
            other = tensors(tmp_path / strategy, part)
            assert one.keys() == other.keys()
            worst = max(float((one[n] - other[n]).abs().max()) for n in one)
            assert worst <= 1e-5, (strategy, part, worst)


def test_a_checkpoint_goes_on_with_another_number_of_processes(tmp_path: Path):
    """1 -> 2 (FSDP2) -> 1: the same order, and the same weights up to rounding."""
    optimizer = OptimizerConfig(lr=1e-3, eps=1e-4)
    level = ScheduleConfig("constant", warmup_steps=4)
    base = toy_config(tmp_path / "unbroken", steps=9, optimizer=optimizer, schedule=level, save=SaveConfig())
    run_to_the_end(base)
    for steps, strategy, world in ((3, "one", 1), (6, "fsdp2", 2), (9, "one", 1)):
        part = replace(base, folder=tmp_path / "run", steps=steps, strategy=strategy, accumulation=2 // world)
        run_to_the_end(part, world)
    one, other = tensors(tmp_path / "unbroken"), tensors(tmp_path / "run")
    assert max(float((one[n] - other[n]).abs().max()) for n in one) <= 1e-5


@pytest.mark.parametrize(
    ("strategy", "steps"),
    [
        ("ddp", 20),
        ("fsdp2", 20),
        pytest.param("ddp", 200, marks=pytest.mark.slow),
        pytest.param("fsdp2", 200, marks=pytest.mark.slow),
    ],
)
def test_ranks_without_pictures_hold_nobody_up(tmp_path: Path, strategy: str, steps: int):
    config = toy_config(tmp_path / "run", steps=steps, strategy=strategy, accumulation=1, save=SaveConfig())
    run_to_the_end(config, 2, Behaviour(mix=True))


def test_that_check_would_notice(tmp_path: Path):
    """A model that does not touch what it leaves out fails it: its ranks do not run the same collectives."""
    config = toy_config(tmp_path / "run", steps=6, strategy="ddp", accumulation=1, timeout_s=5.0, save=SaveConfig())
    assert 0 not in finish(start(config, 2, Behaviour(mix=True, touches=False)))
    assert newest_whole(config.folder).path is None
