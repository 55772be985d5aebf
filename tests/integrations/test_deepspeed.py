"""DeepSpeed's ZeRO-2 and ZeRO-3 through PackedTrainer, two gloo processes on a CPU, with the project's own JSON files.

DeepSpeed builds an operator for its collectives on a CPU when the first process starts, and a build that is cut short
leaves a lock at which the next one waits for ever. So the lock goes and the operator is built before any rank starts.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.train.runs import finish, kill, run_to_the_end, said, start
from tests.train.tiny_models import write_all
from tests.train.train_toy import Behaviour, toy_config
from torch.utils.cpp_extension import get_default_build_root

import tubelet
from tubelet.train.config import OptimizerConfig, SaveConfig, TrainConfig
from tubelet.train.report import LOG, read_log

pytestmark = pytest.mark.deepspeed
ROOT = Path(__file__).parents[2]
BUILD_S = 900.0  # 59 CPU seconds, many times that on a machine with other work
BUILD = """
from deepspeed.accelerator import get_accelerator
get_accelerator().create_op_builder("ShareMemCommBuilder").load()
"""


@pytest.fixture(scope="module", autouse=True)
def operator() -> None:
    missing = [name for name in ("g++", "ninja") if shutil.which(name) is None]
    assert not missing, f"{missing} missing: DeepSpeed cannot build its operator"
    os.environ["DS_ACCELERATOR"] = "cpu"  # before the fork server starts, whose children inherit it
    built = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    for lock in built.rglob("lock"):
        if "deepspeed" in lock.parent.name:
            lock.unlink()
    done = subprocess.run([sys.executable, "-c", BUILD], capture_output=True, text=True, timeout=BUILD_S, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def config_of(folder: Path, **changes: Any) -> TrainConfig:
    given = {"steps": 20, "accumulation": 1, "strategy": "ddp", "timeout_s": 120.0, "save": SaveConfig(None, None)}
    optimizer = OptimizerConfig(lr=2e-3, eps=1e-6)
    return toy_config(folder, **({"ema": None, "optimizer": optimizer} | given | changes))


def losses(folder: Path) -> list[float]:
    told = {line["step"]: line["loss"] for line in read_log(folder / LOG) if line["kind"] == "step"}
    return [told[step] for step in sorted(told)]


@pytest.fixture(scope="module")
def by_ddp(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    config = config_of(tmp_path_factory.mktemp("ddp") / "run")
    run_to_the_end(config, 2, Behaviour(driver="packed", mix=True))
    return losses(config.folder)


@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_twenty_steps_with_ranks_without_pixels_are_those_of_ddp(tmp_path: Path, stage: str, by_ddp: list[float]):
    config = config_of(tmp_path / "run")
    run_to_the_end(config, 2, Behaviour(driver=stage, mix=True))
    assert losses(config.folder) == pytest.approx(by_ddp, rel=1e-4)
    start_line = read_log(config.folder / LOG)[0]
    assert (start_line["kind"], start_line["world"], start_line["strategy"]) == ("start", 2, stage)


@pytest.mark.parametrize("stage", ["zero2", "zero3"])
def test_a_kill_and_a_step_that_is_not_finite(tmp_path: Path, stage: str, by_ddp: list[float]):
    """Inside a save of rank 0; the next start goes on from the whole checkpoint before, to the same losses."""
    config = config_of(tmp_path / "run", save=SaveConfig(4, None))
    ranks = start(config, 2, Behaviour(driver=stage, mix=True, die_at=60))
    ranks[0].join(200)
    assert ranks[0].exitcode == -9, said(config)
    kill(ranks)
    run_to_the_end(config, 2, Behaviour(driver=stage, mix=True))
    assert losses(config.folder) == pytest.approx(by_ddp, rel=1e-4)
    starts = [line["step"] for line in read_log(config.folder / LOG) if line["kind"] == "start"]
    assert starts[0] == 0 and starts[1] > 0

    poisoned = config_of(tmp_path / "poisoned", steps=8)
    assert finish(start(poisoned, 2, Behaviour(driver=stage, nan_step=3))) == [0, 0], said(poisoned)
    skipped = [line["step"] for line in read_log(poisoned.folder / LOG) if line["kind"] == "skipped"]
    assert skipped == [3]


@pytest.mark.parametrize("stage", [2, 3])
def test_the_launcher_and_the_command(tmp_path: Path, stage: int):
    """The command line of LLaVA's users, by DeepSpeed's own launcher, to a projector that loads."""
    write_all(tmp_path)
    command = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", "2", "--module", "tubelet", "train"]
    command += [str(ROOT / "examples" / "train" / "projector.yaml"), "--steps", "3", "--folder", "run"]
    command += ["--deepspeed", str(ROOT / "examples" / "deepspeed" / f"zero{stage}.json")]
    command += ["--mm_tunable_parts", "mm_mlp_adapter"]
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = read_log(tmp_path / "run" / LOG)
    assert (lines[0]["world"], lines[0]["strategy"]) == (2, f"zero{stage}")
    assert [line["step"] for line in lines if line["kind"] == "step"] == [0, 1, 2]
    assert tubelet.load_projector(tmp_path / "run" / "final").config.kind == "mlp2x_gelu"
