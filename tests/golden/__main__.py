"""`python -m tests.golden DIR [NAME ...]`: every case in DIR, or those whose name starts with a NAME.

One line a case, `PASS name  max abs diff ..` or `FAIL name  reason`; last line `N passed, M failed`; exit 1 if any
failed.
"""

import sys
from pathlib import Path

import torch

from .cases import find_cases, run_case


def main(arguments: list[str]) -> int:
    if not arguments or not Path(arguments[0]).is_dir():
        print("usage: python -m tests.golden DIR [NAME ...]", file=sys.stderr)
        return 2
    wanted = tuple(arguments[1:])
    results = [run_case(path) for path in find_cases(Path(arguments[0])) if not wanted or path.stem.startswith(wanted)]
    failed = sum(not result.passed for result in results)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    torch.set_num_threads(1)  # the fixtures were made on one thread
    sys.exit(main(sys.argv[1:]))
