"""What is kept is whole, the folder stays below its size, what was used last stays longest."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from syn2co_ray.spec.errors import StorageError
from syn2co_ray.spec.source import CacheSpec
from syn2co_ray.storage import LocalCache, local_cache

KIB = 1024


def content(number: int, size: int = KIB) -> pa.Buffer:
    return pa.py_buffer(number.to_bytes(4, "little") * (size // 4))


def held(folder: Path) -> int:
    """Bytes of all files in the folder."""
    return sum(path.stat().st_size for path in folder.iterdir())


def test_what_was_put_is_got(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path / "not" / "there" / "yet", 1000 * KIB)
    assert cache.get("a") is None
    for data in (content(1), pa.py_buffer(b"")):
        cache.put("a", data)
        assert cache.get("a") == data
    assert cache.get("b") is None
    assert len(list((tmp_path / "not" / "there" / "yet").iterdir())) == 1


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-1], lambda d: b"", lambda d: b"\0" * len(d), lambda d: d + b"x"]
)
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, damage) -> None:
    cache = LocalCache(tmp_path, 1000 * KIB)
    cache.put("a", content(1))
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert cache.get("a") is None
    assert not path.exists()


def test_size_stays_below_its_limit_and_the_newest_stay(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path, 100 * KIB)
    for number in range(300):
        cache.put(str(number), content(number))
        assert held(tmp_path) <= 100 * KIB
    kept = [number for number in range(300) if cache.get(str(number)) is not None]
    assert kept == list(range(300 - len(kept), 300))
    assert len(kept) > 60


def test_least_recently_used_go_first(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path, 100 * KIB)
    for number in range(70):
        cache.put(str(number), content(number))
    for path in tmp_path.iterdir():
        os.utime(path, (1, 1))
    assert cache.get("7") == content(7)
    for number in range(100, 140):
        cache.put(str(number), content(number))
    assert cache.get("7") == content(7)
    assert sum(cache.get(str(number)) is not None for number in range(70)) < 50


def test_a_piece_too_large_is_not_kept(tmp_path: Path) -> None:
    cache = LocalCache(tmp_path, 100 * KIB)
    cache.put("small", content(1))
    cache.put("large", content(2, 40 * KIB))
    assert cache.get("large") is None
    assert cache.get("small") == content(1)


def test_what_a_dead_writer_left_is_deleted_and_what_is_being_written_is_not(tmp_path: Path) -> None:
    long_ago = time.time() - 7200
    for name in ("dead.partial", "alive.partial"):
        (tmp_path / name).write_bytes(b"half")
    os.utime(tmp_path / "dead.partial", (long_ago, long_ago))
    LocalCache(tmp_path, 100 * KIB).put("a", content(1))
    assert not (tmp_path / "dead.partial").exists()
    assert (tmp_path / "alive.partial").exists()


def test_full_disk_keeps_nothing_and_other_faults_are_named(tmp_path: Path, monkeypatch) -> None:
    cache = LocalCache(tmp_path, 100 * KIB)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        cache.put("a", content(1))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cache\.folder: .*cannot be written") as caught:
        LocalCache(tmp_path / "file", 100 * KIB).put("a", content(1))
    assert "leave object_store.cache out" in caught.value.fault.next_step


def test_one_cache_serves_all_threads_of_a_process(tmp_path: Path) -> None:
    spec = CacheSpec(folder=str(tmp_path), bytes_max=KIB)
    assert local_cache(spec) is local_cache(CacheSpec(folder=str(tmp_path), bytes_max=KIB))


def test_processes_that_write_read_and_die_leave_whole_files_below_the_limit(tmp_path: Path) -> None:
    code = (
        "import random, sys; import pyarrow as pa; from pathlib import Path\n"
        "from syn2co_ray.storage import LocalCache\n"
        "cache, chosen = LocalCache(Path(sys.argv[1]), 400_000), random.Random(sys.argv[2])\n"
        "print('ready', flush=True)\n"
        "while True:\n"
        "    number = chosen.randrange(1000)\n"
        "    data = cache.get(str(number))\n"
        "    if data is None: cache.put(str(number), pa.py_buffer(number.to_bytes(4, 'little') * 500))\n"
        "    else: assert data.to_pybytes() == number.to_bytes(4, 'little') * 500\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(n)], stdout=subprocess.PIPE)
        for n in range(3)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            sizes = []
            for entry in os.scandir(tmp_path):
                try:
                    sizes.append(entry.stat().st_size)
                except FileNotFoundError:
                    continue
            assert sum(sizes) <= 400_000
            assert all(process.poll() is None for process in processes)
    finally:
        for process in processes:
            process.kill()
            process.wait(timeout=30)
    cache = LocalCache(tmp_path, 400_000)
    cache.put("one more", content(1))
    for number in range(1000):
        data = cache.get(str(number))
        assert data is None or data.to_pybytes() == number.to_bytes(4, "little") * 500
