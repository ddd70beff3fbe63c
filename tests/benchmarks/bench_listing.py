"""Listing a large prefix of an S3 server, and indexing it as a folder of images.

    python tests/benchmarks/bench_listing.py [objects]

Writes that many empty objects (100,000 unless said) in 100 class folders to the S3 server of the tests, lists them,
and indexes them; no object is read. Memory is how much the resident size of this process grows.

Predicted before measuring: 100 pages of 1,000 at 50 ms each, one after the other: 5 s; 1 kB an object while the
list is sorted: 100 MB, 30 MB of it kept in the index.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from syn2co_ray.data.index import build_index
from syn2co_ray.data.source_index import load_index, save_index
from syn2co_ray.spec.source import ObjectStoreSpec, SourceSpec
from syn2co_ray.storage import list_files, open_store
from tests.object_store import running_object_store

THREADS = 32


def told(what: str, action: Callable[[], Any]) -> Any:
    """What the action returns; prints its seconds and by how many MB this process has grown."""
    before, started = psutil.Process().memory_info().rss, time.perf_counter()
    result = action()
    took_s = time.perf_counter() - started
    grown = (psutil.Process().memory_info().rss - before) / 1e6
    print(f"{what:34} {took_s:7.1f} s   {grown:6.0f} MB", flush=True)
    return result


def main(objects: int = 100_000) -> None:
    with running_object_store() as server:
        os.environ |= server.environment
        server.make_bucket("listing")
        client = boto3.client("s3", endpoint_url=server.endpoint_url)

        def put(number: int) -> None:
            client.put_object(Bucket="listing", Key=f"photos/{number % 100:02d}/{number:09d}.jpg", Body=b"")

        with ThreadPoolExecutor(THREADS) as pool:
            told(f"{objects:,} objects written", lambda: list(pool.map(put, range(objects))))
        store = open_store("s3://listing/photos", ObjectStoreSpec())
        files = told("listed", lambda: list_files(store))
        assert len(files) == objects
        del files
        index = told("listed and indexed", lambda: build_index(SourceSpec(uri=store.uri), ObjectStoreSpec()))
        assert index.num_records == objects
        saved = told("index as bytes", lambda: save_index(index))
        print(f"{'':34} {len(saved) / 1e6:7.1f} MB stored with the run")
        told("index read again", lambda: load_index(saved))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
