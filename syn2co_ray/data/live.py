"""Records of a live source: images that a generator puts into a pool while training goes on.

The plan names a pass over the pool and a place in it; which shard has that place, the generator's ledger
knows (`generate.ledger`). Asking for it waits until the shards of the pass are there.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from ..spec.errors import StorageError, error_from_json
from ..storage import Store, read_from
from .plan import FragmentRead, LivePool

COLUMNS = ["key", "image", "label"]
READ_THREADS = 4


@dataclass(frozen=True)
class LiveReader:
    """Reads the pool of a live source from any process of the cluster.

    `passes` is an actor whose `files_of_pass(number)` answers, once they are there, with `files`: the file in
    each place of a pass; or with `error`.
    """

    store: Store
    pool: LivePool
    passes: Any

    def read(self, reads: Sequence[FragmentRead]) -> pa.Table:
        """Records (key, image, label) of the reads, in their order.

        Raises:
            Syn2coError: what stopped the generator.
            StorageError: a shard of the pass cannot be read.
        """
        places = [divmod(read.fragment, self.pool.shards) for read in reads]
        files = {number: self._files(number) for number in sorted({number for number, _ in places})}
        wanted = [files[number][place] for number, place in places]
        with ThreadPoolExecutor(READ_THREADS) as threads:
            tables = dict(zip(set(wanted), threads.map(self._shard, set(wanted)), strict=True))
        return pa.concat_tables(
            [tables[file].take(pa.array(read.rows)) for file, read in zip(wanted, reads, strict=True)]
        )

    def _files(self, number: int) -> list[str]:
        answer = ray.get(self.passes.files_of_pass.remote(number))
        if answer["error"]:
            raise error_from_json(answer["error"])
        return list(answer["files"])

    def _shard(self, file: str) -> pa.Table:
        place = self.store.child(file)
        try:
            return read_from(self.store, file, lambda opened: pq.read_table(opened, columns=COLUMNS))
        except (OSError, pa.ArrowInvalid) as error:
            step = "resume the run: what is missing of the pool is made again"
            raise StorageError(place.uri, str(error), "a readable shard of the pool", step) from error
