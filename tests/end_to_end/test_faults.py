"""Whole runs, as a user types them, while the store, an actor or a worker fails: they train on what they would."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from syn2co_ray.spec.source import ObjectStoreSpec
from syn2co_ray.storage import list_files, open_store, read_bytes
from tests.faulty_store import FaultyStore
from tests.ray_hosts import RAY, answers, wait_for
from tests.train.local_run import TINY, local_loop, prepared, rows_of

from .test_run import start

pytestmark = [pytest.mark.slow, pytest.mark.ray]

GENERATE = """
kind: generate
name: digits
seed: 0
into: overridden
images: 64
images_per_shard: 8
pipeline: {source: "package:digits_ddpm", scheduler: DDIMScheduler, steps: 5}
actors: {min: 1, max: 2, cpus_each: 0.5}
"""
STEPS = 300
OUTAGE_S = 60.0
ONE_WORKER = "train.workers={min: 1, max: 1, cpus_each: 0.5}"


def long_job(folder: str) -> str:
    """The tiny job with 300 steps instead of 20, and checkpoints on the way."""
    return (
        TINY.format(folder=folder)
        .replace("  epochs: 4\n", "  epochs: 60\n  checkpoint: {every_steps: 50, every_epochs: 60}\n")
        .replace("  linear: {epochs: 5}", "")
    )


def written_job(folder: Path) -> Path:
    """The long job as a file, its data and runs beside it."""
    job = folder / "tiny.yaml"
    job.write_text(long_job(str(folder)))
    return job


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[int, float]]:
    """Digest of the keys and loss of each step, without Ray and without faults."""
    folder = tmp_path_factory.mktemp("undisturbed")
    loop = local_loop(prepared(folder, text=long_job(str(folder)).replace("{", "{{").replace("}", "}}")))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as Ray gives a worker with one CPU or less: sums come out the same
    loop.run_to_end()
    torch.set_num_threads(threads)
    digests: dict[int, int] = loop.digests  # type: ignore[attr-defined]
    return {step: (digests[step], loss) for step, loss in loop.losses.items()}  # type: ignore[attr-defined]


def lines_of(run: Any, do: Callable[[], None], when: str = "epoch ") -> Iterator[str]:
    """What a run prints; at the first line that starts so (by itself one of progress) something is done."""
    done, said = False, []
    for line in run.stdout:
        said.append(line)
        yield line
        if line.startswith(when) and not done:
            do()
            done = True
    assert done, "".join(said)


def outage(begin: Callable[[], None], end: Callable[[], None]) -> Callable[[], None]:
    def happen() -> None:
        begin()
        threading.Timer(OUTAGE_S, end).start()

    return happen


@pytest.mark.object_store
@pytest.mark.parametrize(
    "fault", ["delay_ms=200", "slow_down_per_mille=300", "reset_per_mille=300", "gone", "frozen"]
)
def test_a_run_through_a_failing_store_is_the_run_through_a_good_one(
    faulty_store: FaultyStore, undisturbed: dict[int, tuple[int, float]], tmp_path: Path, fault: str
) -> None:
    place = f"{faulty_store.direct.make_bucket('runs')}/{tmp_path.name}"
    job = tmp_path / "tiny.yaml"
    job.write_text(long_job(place))
    do = {
        "gone": outage(faulty_store.stop, faulty_store.start),
        "frozen": outage(faulty_store.freeze, faulty_store.thaw),
    }.get(fault, lambda: None)
    if "=" in fault:
        name, _, value = fault.partition("=")
        faulty_store.set(**{name: int(value)})
    began = time.monotonic()
    run = start(job, ONE_WORKER)
    out = "".join(lines_of(run, do))
    assert run.wait(600) == 0, out
    print(f"{fault}: {time.monotonic() - began:.0f} s\n{out}")
    faulty_store.heal()
    rows = rows_of(f"{place}/runs")
    assert {row["step"]: (row["keys_digest"], row["loss"]) for row in rows} == undisturbed
    assert len(rows) == STEPS


def shards_of(uri: str) -> dict[str, bytes]:
    store = open_store(uri, ObjectStoreSpec())
    files = [file.path for file in list_files(store, recursive=False) if file.path.endswith(".parquet")]
    return {name: read_bytes(store, name) for name in files}


@pytest.mark.object_store
def test_generating_through_a_store_that_resets_cuts_and_goes_makes_the_same_bytes(
    faulty_store: FaultyStore, tmp_path: Path
) -> None:
    job = tmp_path / "digits.yaml"
    job.write_text(GENERATE)
    run_job = (sys.executable, "-m", "syn2co_ray.cli", "run", str(job))
    subprocess.run([*run_job, f"into={tmp_path}/good"], check=True, timeout=600)
    place = f"{faulty_store.direct.make_bucket('generated')}/{tmp_path.name}"
    faulty_store.set(reset_per_mille=300)
    done = threading.Event()

    def keep_cutting() -> None:
        while not done.wait(0.5):
            faulty_store.cut()

    threading.Thread(target=keep_cutting, daemon=True).start()
    disturbed = subprocess.run([*run_job, f"into={place}"], capture_output=True, text=True, timeout=600)
    done.set()
    assert disturbed.returncode == 0, disturbed.stdout + disturbed.stderr
    faulty_store.heal()
    shards = shards_of(place)
    assert len(shards) == 8
    assert shards == shards_of(f"{tmp_path}/good")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def processes(name: str) -> list[psutil.Process]:
    """Ray's processes whose title holds the name."""
    return [p for p in psutil.process_iter(["cmdline"]) if name in " ".join(p.info["cmdline"] or [])]


def test_a_view_actor_that_is_killed_costs_nothing(
    undisturbed: dict[int, tuple[int, float]], tmp_path: Path
) -> None:
    job = written_job(tmp_path)

    killed: list[int] = []

    def kill_while_it_works() -> None:
        # SIGKILL is what the kernel sends to a process that takes too much memory.
        while not killed and run.poll() is None:
            for actor in processes("ViewActor)).submit"):
                actor.kill()
                killed.append(actor.pid)

    run = start(job, ONE_WORKER)
    watching = threading.Thread(target=kill_while_it_works, daemon=True)
    out = "".join(lines_of(run, watching.start, when="1,408 images, "))
    assert run.wait(600) == 0, out
    assert killed
    rows = rows_of(str(tmp_path / "runs"))
    assert {row["step"]: (row["keys_digest"], row["loss"]) for row in rows} == undisturbed


@contextlib.contextmanager
def ray_with_a_tiny_disk(folder: Path) -> Iterator[str]:
    """Address of a Ray whose object store of 80 MB spills to a disk of 4 MB."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)], check=True)
    port = free_port()
    words = (
        f"--head --port={port} --num-cpus=4 --object-store-memory=80000000 --include-dashboard=false --block"
    )
    places = (f"--object-spilling-directory={disk}", f"--temp-dir={tempfile.mkdtemp(dir='/tmp')}")
    head = subprocess.Popen(
        [RAY, "start", *words.split(), *places],
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: answers("127.0.0.1", port), 90)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait()
        subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a small disk")
def test_a_full_disk_under_the_object_store_is_one_clear_error(tmp_path: Path) -> None:
    job = written_job(tmp_path)
    with ray_with_a_tiny_disk(tmp_path) as address:
        large = ("augment.image_size=224", "train.images_per_step_global=160", "train.failures_max=0")
        run = start(
            job, ONE_WORKER, *large, environment={"RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}
        )
        out = run.communicate(timeout=600)[0]
    assert run.returncode == 4, out
    assert re.search("error: Ray's object store: .*the local object store is full", out), out
    assert "ray start --object-spilling-directory" in out


def test_a_driver_that_is_killed_is_resumed_by_the_same_command(
    undisturbed: dict[int, tuple[int, float]], tmp_path: Path
) -> None:
    job = written_job(tmp_path)
    first = start(job, ONE_WORKER)
    while not list(tmp_path.glob("runs/*/checkpoints/*/MANIFEST.json")):
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.05)  # looks at the folder, waits for nothing else
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    second = start(job, ONE_WORKER)
    out = second.communicate(timeout=600)[0]
    assert second.returncode == 0, out
    assert re.search(r"resumed from step \d+", out)
    rows = rows_of(str(tmp_path / "runs"))
    assert {row["step"]: (row["keys_digest"], row["loss"]) for row in rows} == undisturbed
    assert len(rows) == STEPS


def test_a_worker_that_hangs_is_named_and_left_behind(
    undisturbed: dict[int, tuple[int, float]], tmp_path: Path
) -> None:
    job = written_job(tmp_path)
    stopped: list[int] = []

    def stop() -> None:
        worker = processes("ray::RayTrainWorker")[0]
        os.kill(worker.pid, signal.SIGSTOP)
        stopped.append(worker.pid)

    run = start(job, "train.workers={min: 2, max: 2, cpus_each: 0.5}", "train.collective_timeout_s=15")
    out = "".join(lines_of(run, stop))
    assert run.wait(600) == 0, out
    words = rf"rank [01] \(process {stopped[0]} on [\d.]+\) did not answer the others within 15 s"
    assert re.search(rf"restarted at step \d+ with 2 workers \({words}\)", out), out
    rows = rows_of(str(tmp_path / "runs"))
    assert {row["step"]: row["keys_digest"] for row in rows} == {k: v[0] for k, v in undisturbed.items()}
    # Two workers round otherwise than one; later steps make more of it.
    np.testing.assert_allclose(
        [row["loss"] for row in rows[:10]], [undisturbed[step][1] for step in range(1, 11)], rtol=1e-3
    )
