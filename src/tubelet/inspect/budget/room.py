"""How much memory there is now, beside what a plan says is needed."""

from pathlib import Path

MEMINFO = Path("/proc/meminfo")


def free_bytes(device: str) -> int | None:
    """Bytes that a process can still take on this device; None where the system does not tell.

    On Linux what the kernel calls available: free pages and those it would give back. On CUDA what its driver says.
    """
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    if device != "cpu" or not MEMINFO.exists():
        return None
    for line in MEMINFO.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024 * int(line.split()[1])
    return None
