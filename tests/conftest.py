"""Options of the whole suite: how much torture, and whether the slow tests run. And what tests of all parts share."""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import jaxtyping
import pytest
from hypothesis import settings
from tests import typed
from tests.forked import Forked

typed.install()

# The same examples every time: a change is judged by what it changes. `--hypothesis-profile explore` for others.
settings.register_profile("steady", deadline=None, derandomize=True, max_examples=40)
settings.register_profile("explore", deadline=None, max_examples=1000)
settings.load_profile("steady")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--torture", type=int, metavar="N", help="damaged inputs per run: 300, and 5000 with --run-slow")
    parser.addoption("--run-slow", action="store_true", help="also run the tests marked slow")
    parser.addoption("--run-ray", action="store_true", help="also run the tests marked ray")
    parser.addoption("--run-deepspeed", action="store_true", help="also run the tests marked deepspeed")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Of `-n auto`, the default: the whole suite on as many processes as there are cores, at most 8 (1.5 GB each);
    files and tests that are named run in this process, where a debugger can stop."""
    if any(Path(arg.partition("::")[0]).resolve().is_file() for arg in config.args):
        return 0
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the workers, which import torch: a core each
    return min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for mark, reason in (
        ("slow", "slow: larger sizes, run with --run-slow"),
        ("ray", "needs ray[data]; run with --run-ray"),
        ("deepspeed", "needs deepspeed, ninja and g++; run with --run-deepspeed"),
    ):
        if not config.getoption(f"--run-{mark}"):
            for item in items:
                if mark in item.keywords:
                    item.add_marker(pytest.mark.skip(reason=reason))


def pytest_collection_finish(session: pytest.Session) -> None:
    """What was collected stays to the end: no garbage collection looks through its millions again."""
    _keep()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The same of what tests before this one imported, and of what pytest keeps of each of them."""
    KEPT["tests"] += 1
    if KEPT["tests"] >= 250 or len(sys.modules) >= KEPT["modules"] + 20:
        _keep()


KEPT = {"modules": 0, "tests": 0}  # modules there were when things were last kept, in this process, and tests since


def _keep() -> None:
    """Takes what there is from the garbage collector."""
    KEPT.update(modules=len(sys.modules), tests=0)
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Lines that tests wanted said, `record_property("say", line)`; they come through pytest-xdist too."""
    for report in (r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, [])):
        for name, line in report.user_properties:
            if name == "say" and report.when == "call":
                terminalreporter.write_line(str(line))


@pytest.fixture(scope="session")
def torture(pytestconfig: pytest.Config) -> int:
    """How many damaged inputs this run makes, over all kinds together."""
    return pytestconfig.getoption("--torture") or (5_000 if pytestconfig.getoption("--run-slow") else 300)


@pytest.fixture(scope="session")
def forked() -> Iterator[Forked]:
    """Commands in processes of their own, from the one server of this test process."""
    server = Forked()
    yield server
    server.close()


UNPICKLE = (
    "import os, sys; from tubelet.weights.unpickle_child import main; "
    "main(os.open(sys.argv[1], os.O_RDONLY), sys.argv[2], int(sys.argv[3]))"
)


@pytest.fixture
def confined_forks(forked: Forked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickles are read by forks, which confine themselves as a fresh process does, but need not import torch. The way
    of the open file, the variables and the flags into a fresh one is for tests without this."""
    from tubelet.weights import unpickle

    def run(command: list[str], cwd: Path, **_: object) -> subprocess.CompletedProcess[str]:
        fd, out, most = command[-3:]
        return forked(["-c", UNPICKLE, f"/proc/{os.getpid()}/fd/{fd}", out, most], cwd)

    if Path("/proc/self/fd").exists():
        monkeypatch.setattr(unpickle, "subprocess", SimpleNamespace(**vars(subprocess) | {"run": run}))


@pytest.fixture
def as_in_production() -> Iterator[None]:
    """Switches the check of annotations off, so that wrong arguments reach the library's own checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
