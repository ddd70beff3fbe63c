"""The run folder: one place in the store for everything a run leaves behind.

    <storage>/<name>-<short hash of the spec>/
        spec.yaml  provenance.json  views.png  samples.png  quarantine.jsonl  results.json  report.html
        metrics/steps-<first step>.jsonl   metrics/eval-<step>.json   checkpoints/
        logs/<driver or rank>-<start>-<part>.jsonl

A second run of the same spec continues in it; another spec never writes into it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..spec.errors import Fault, SpecError
from ..spec.identity import resolved_yaml, run_name, spec_hash
from ..spec.job import FolderJobSpec, TrainingSpec
from ..storage import Store, exists, open_store, publish_bytes, read_bytes
from ..storage.run_layout import PROVENANCE_FILE, SPEC_FILE


@dataclass(frozen=True)
class RunFolder:
    """Names and writers of what a run leaves; cheap to send between processes."""

    store: Store

    def read_json(self, name: str) -> Any | None:
        """A JSON file of the run, or None while it is not there."""
        return json.loads(read_bytes(self.store, name)) if exists(self.store, name) else None

    def write_json(self, name: str, value: Any) -> None:
        folder, _, file = name.rpartition("/")
        publish_bytes(
            self.store.child(folder) if folder else self.store, file, json.dumps(value, indent=1).encode()
        )

    def write_json_lines(self, name: str, rows: list[dict[str, Any]]) -> None:
        folder, _, file = name.rpartition("/")
        data = "".join(json.dumps(row) + "\n" for row in rows).encode()
        publish_bytes(self.store.child(folder) if folder else self.store, file, data)


def open_run(job: FolderJobSpec) -> RunFolder:
    """The folder of a job's run, made if it is not there.

    Raises:
        SpecError: the folder holds a run of another spec.
    """
    run = RunFolder(open_store(job.storage, job.object_store).child(run_name(job)))
    provenance = run.read_json(PROVENANCE_FILE)
    if provenance is not None and provenance["spec_hash"] != spec_hash(job):
        raise SpecError(
            [
                Fault(
                    run.store.uri,
                    f"holds a run of spec {provenance['spec_hash'][:12]}",
                    f"a run of spec {spec_hash(job)[:12]}",
                    "use another name or storage",
                )
            ]
        )
    if provenance is None:
        publish_bytes(run.store, SPEC_FILE, resolved_yaml(job).encode())
    return run


def existing_run(job: TrainingSpec) -> RunFolder:
    """The folder of a job that was run before.

    Raises:
        SpecError: there is none.
    """
    run = RunFolder(open_store(job.storage, job.object_store).child(run_name(job)))
    if run.read_json(PROVENANCE_FILE) is None:
        raise SpecError([Fault(run.store.uri, "no such run", "a job that was run", "syn2co run it first")])
    return run
