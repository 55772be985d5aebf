"""The command as a process: streams that close, signals, other encodings, and what starting costs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_version_help_and_usage_errors(tubelet: Run):
    assert tubelet("--version").stdout.startswith("tubelet 0.")
    for command in ((), ("encode",), ("show",), ("scene",), ("convert",), ("models",)):
        told = tubelet(*command, "--help")
        assert told.returncode == 0
        assert "usage: tubelet" in told.stdout
        assert not command or "Example: tubelet" in told.stdout
    wrong = tubelet("bogus")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    alone = tubelet()
    assert (alone.returncode, alone.stdout.split()[:2]) == (0, ["usage:", "tubelet"])


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["encode", "--help"], ["encode", "x", "--bogus"]])
def test_help_and_usage_errors_do_not_load_torch(args: list[str]):
    code = (
        "import sys; from tubelet.cli import main; main(sys.argv[1:]); "
        "sys.exit(9 if {'torch', 'safetensors', 'huggingface_hub'} & set(sys.modules) else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code, *args], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    "args",
    [
        ["encode", "wide.png", "--out", "o.png"],
        ["encode", "gone.png", "--out", "o.safetensors"],
        ["select", "wide.png", "--budget", "0"],
        ["select", "gone.png", "--budget", "9"],
        ["compare", "gone.png", "--budget", "9"],
        ["show", "gone.png", "--out", "o.png"],
        ["ask", "gone.png", "what?"],
        ["plan", "wide.png", "--model", "siglipp"],
        ["serve", "gone.png"],
    ],
)
def test_what_is_wrong_with_files_and_numbers_is_told_without_torch(args: list[str], files: dict[str, Path]):
    code = "import sys; from tubelet.cli import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    command = [sys.executable, "-c", code, *args]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, cwd=files["wide"].parent)
    assert ran.stdout in ("1 False\n", "2 False\n")
    assert ran.stderr.startswith("tubelet: ")
    assert ran.stderr.count("\n") == 1


def test_a_missing_file_is_one_line(tubelet: Run, model: Path):
    told = tubelet("encode", "gone.png", "--model", model, "--out", "o.safetensors")
    assert told.returncode == 1
    assert told.stdout == ""
    assert told.stderr == "tubelet: gone.png: there is no such file\n"


def test_stdout_is_the_document_to_the_last_byte(tubelet: Run, files: dict[str, Path], model: Path):
    told = tubelet("encode", files["wide"], files["clip"], "--model", model, "--out", "o.safetensors", "--json")
    assert told.returncode == 0
    assert told.stderr == ""
    assert len(json.loads(told.stdout)["files"]) == 2
    assert told.stdout.endswith("}\n")


def test_a_reader_who_leaves_changes_nothing(files: dict[str, Path], model: Path, tmp_path: Path):
    for args in (["encode", files["wide"], "--model", model, "--out", "o.safetensors"], ["models"], ["--help"]):
        read_end, write_end = os.pipe()
        os.close(read_end)
        command = [sys.executable, "-m", "tubelet", *map(str, args)]
        told = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, cwd=tmp_path, check=False)
        os.close(write_end)
        assert told.returncode == 0
        assert told.stderr == b""
    assert (tmp_path / "o.safetensors").stat().st_size > 100


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_behind_stdout_is_told(tmp_path: Path):
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "tubelet", "models", "--json"]
        told = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False)
    assert told.returncode == 1
    assert told.stderr == "tubelet: No space left on device\n"


@pytest.mark.parametrize("stream", ["1", "2"])
def test_closed_streams(files: dict[str, Path], model: Path, tmp_path: Path, stream: str):
    command = (
        f'"{sys.executable}" -m tubelet encode "{files["wide"]}" --model "{model}" --out o.safetensors {stream}>&-'
    )
    told = subprocess.run(["sh", "-c", command], capture_output=True, cwd=tmp_path, check=False)
    assert told.returncode == 0
    assert (tmp_path / "o.safetensors").exists()


def test_a_terminal_that_knows_ascii_alone(tubelet: Run, files: dict[str, Path], model: Path, tmp_path: Path):
    name = "na\N{LATIN SMALL LETTER I WITH DIAERESIS}ve \N{CJK UNIFIED IDEOGRAPH-4E2D}.png"
    (tmp_path / name).write_bytes(files["wide"].read_bytes())
    plain = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    told = tubelet("encode", tmp_path / name, "--model", model, "--out", "o.safetensors", env=plain)
    assert told.returncode == 0, told.stderr
    assert told.stdout.isascii()
    assert "ve" in told.stdout
    told = tubelet("encode", tmp_path / name, "--model", model, "--out", "p.safetensors", "--json", env=plain)
    assert json.loads(told.stdout)["files"][0]["width"] == 100


def test_a_name_that_is_not_unicode(tubelet: Run, files: dict[str, Path], model: Path, tmp_path: Path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    Path(os.fsdecode(name)).write_bytes(files["wide"].read_bytes())
    for extra in ([], ["--json", "--overwrite"]):
        told = tubelet("encode", os.fsdecode(name), "--model", model, "--out", "o.safetensors", *extra)
        assert told.returncode == 0, told.stderr
        assert r"caf\xe9.png" in told.stdout.replace("\\\\", "\\")


def interrupted(clip: Path, model: Path, folder: Path, wait_s: float, *options: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a long run that hears of Ctrl-C after so many seconds."""
    names = [str(clip)] * 2000
    command = [sys.executable, "-m", "tubelet", "encode", *names, "--model", str(model), "--out", "o.safetensors"]
    process = subprocess.Popen(
        [*command, *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    time.sleep(wait_s)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.parametrize("wait_s", [0.3, 1.2, 2.5])
def test_interrupted_at_any_moment(files: dict[str, Path], model: Path, tmp_path: Path, wait_s: float):
    """130, one line or none, nothing left behind, however far it was. A run that was faster than us ends with 0."""
    code, out, err = interrupted(files["clip"], model, tmp_path, wait_s)
    if code == 0:
        return
    # Before Python has reached our main there is nobody to say it nicely. And CPython ends itself by the signal, for
    # which shells say 130 too, when the interrupt came while a string of source was run, as dataclasses do on import.
    assert code in (130, -signal.SIGINT)
    if code == 130:
        assert out == ""
        assert err == "tubelet: interrupted\n"
    assert list(tmp_path.iterdir()) == []


def test_interrupted_json_is_still_a_document(files: dict[str, Path], model: Path, tmp_path: Path):
    for wait_s in (4, 16):  # longer where Python had not reached our main, which writes it
        code, out, _ = interrupted(files["clip"], model, tmp_path, wait_s, "--json")
        if out:
            break
    assert code in (130, -signal.SIGINT)
    assert json.loads(out)["error"] == "Interrupted"
