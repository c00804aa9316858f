"""Where an export works until its bundle is whole: beside the final place, under a hidden name.

Finished stages are recorded with the hashes of their files, so that a second run after a kill at
any moment goes on where the first one was. Another checkpoint or other options start afresh.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fam_runtime.bundle import FileRecord, GraphSpec, TensorSpec, file_record, write_atomically
from fam_runtime.errors import ExportError, FamError

FINGERPRINT_FILE = "fingerprint"
RECORDS_FOLDER = "records"
BUNDLE_FOLDER = "bundle"
LOCK_FILE = "lock"


class ExportInterrupted(ExportError):
    """The machine failed, not the export: finished stages are kept for the next run."""


@dataclass(frozen=True)
class StageRecord:
    """What a finished stage left: its files, and the interfaces of the graphs among them."""

    files: Mapping[str, FileRecord]
    graphs: Mapping[str, GraphSpec] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """As JSON."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> StageRecord:
        """The inverse of :meth:`to_bytes`."""
        document = json.loads(data)
        return cls(
            {name: FileRecord(**record) for name, record in document["files"].items()},
            {name: _graph_spec(spec) for name, spec in document["graphs"].items()},
        )


@dataclass(frozen=True)
class Staging:
    """The working directory of one export.

    Attributes:
        root: ``.NAME.staging`` beside the final bundle.
    """

    root: Path

    @property
    def bundle(self) -> Path:
        """The part that becomes the bundle."""
        return self.root / BUNDLE_FOLDER

    @classmethod
    @contextmanager
    def opened(cls, final: Path, fingerprint: str) -> Iterator[Staging]:
        """The staging area for a bundle at `final`, locked against a second exporter.

        What another checkpoint, other options or another version left there is removed. A run
        that was stopped, killed or interrupted is continued; one that failed leaves nothing of
        its own.

        Raises:
            ExportError: another process exports to the same place.
        """
        staging = cls(staging_of(final))
        with _locked(staging.root / LOCK_FILE, final):
            continued = False
            try:
                staging._prepare(fingerprint)
                continued = any((staging.root / RECORDS_FOLDER).iterdir())
                yield staging
            except ExportInterrupted:
                raise
            except FamError:
                # Nothing of a failed run is left; what an earlier run, killed, had done is kept.
                if not continued:
                    staging.remove()
                raise

    def record_of(self, stage: str) -> StageRecord | None:
        """The record of a finished stage whose files are still whole, else None."""
        path = self._record_path(stage)
        try:
            record = StageRecord.from_bytes(path.read_bytes())
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        for name, expected in record.files.items():
            file = self.bundle / name
            if not file.is_file() or file_record(file) != expected:
                return None
        return record

    def finish(
        self, stage: str, files: tuple[str, ...], graphs: Mapping[str, GraphSpec]
    ) -> StageRecord:
        """Record a stage whose files lie in :attr:`bundle`."""
        record = StageRecord({name: file_record(self.bundle / name) for name in files}, graphs)
        write_atomically(self._record_path(stage), record.to_bytes())
        return record

    def remove(self) -> None:
        """The bundle is published; what is left is not needed."""
        shutil.rmtree(self.root, ignore_errors=True)

    def _prepare(self, fingerprint: str) -> None:
        path = self.root / FINGERPRINT_FILE
        if not path.is_file() or path.read_text(encoding="utf-8") != fingerprint:
            for folder in (self.bundle, self.root / RECORDS_FOLDER):
                shutil.rmtree(folder, ignore_errors=True)
            write_atomically(path, fingerprint.encode())
        self.bundle.mkdir(exist_ok=True)
        (self.root / RECORDS_FOLDER).mkdir(exist_ok=True)

    def _record_path(self, stage: str) -> Path:
        return self.root / RECORDS_FOLDER / f"{stage}.json"


def staging_of(final: Path) -> Path:
    """Where an export to `final` works."""
    return final.parent / f".{final.name}.staging"


@contextmanager
def _locked(path: Path, final: Path) -> Iterator[None]:
    """Hold the lock file at `path`; it goes with its folder when that is removed.

    Raises:
        ExportError: another process holds it.
    """
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = path.open("w")
        except FileNotFoundError:
            continue  # the folder was removed by another exporter that has just finished
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ExportError(
                    f"another fam-export is writing {final}",
                    fix="wait for it to finish, or choose another --output",
                ) from None
            if _is_same_file(path, lock.fileno()):
                yield
                return


def _is_same_file(path: Path, descriptor: int) -> bool:
    """Whether the open file still has its name: a lock on a removed file protects nothing."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _graph_spec(document: Mapping[str, Any]) -> GraphSpec:
    def specs(records: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(r["name"], r["dtype"], tuple(r["shape"])) for r in records)

    return GraphSpec(
        inputs=specs(document["inputs"]),
        outputs=specs(document["outputs"]),
        check=document["check"],
        activation_bytes=document["activation_bytes"],
    )
