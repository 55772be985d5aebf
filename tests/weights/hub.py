"""A hub of one repository, at its border: what `snapshot_download` would fetch, counted."""

from collections import Counter
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub:
    """In place of `huggingface_hub.snapshot_download`. asked: how often each file was asked for."""

    def __init__(self, origin: Path, cache: Path) -> None:
        self.origin, self.snapshot = origin, cache / "snapshots" / COMMIT
        self.asked: Counter[str] = Counter()
        self.revisions: list[str | None] = []

    def __call__(self, repo: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        self.revisions.append(revision)
        self.asked.update(allow_patterns)
        self.snapshot.mkdir(parents=True, exist_ok=True)
        for name in allow_patterns:
            if (self.origin / name).exists():
                (self.snapshot / name).write_bytes((self.origin / name).read_bytes())
        return str(self.snapshot)
