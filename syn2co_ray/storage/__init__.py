"""A URI becomes a filesystem and a path: local folders, s3://, gs://, az://, hf:// and memory://.

All of them raise one set of errors.

open_store("s3://bucket/runs", options)     where things are; cheap, picklable
publish_bytes / publish_file                a name appears with all of its bytes, or not at all
run_log                                     what processes of a run say, as JSON lines in its folder
local_cache                                 bytes kept on a node's disk, up to a size
read_bytes / read_from / list_files / list_level / exists / delete / delete_folder
                                            with bounded retries and errors a user can act on
"""

from .filesystem import Store, open_store
from .local_cache import LocalCache, local_cache
from .publish import (
    FileInfo,
    delete,
    delete_folder,
    exists,
    list_files,
    list_level,
    publish_bytes,
    publish_file,
    read_bytes,
    read_from,
)
from .retry import with_retries
from .run_log import RunLog, run_log

__all__ = [
    "FileInfo",
    "LocalCache",
    "RunLog",
    "Store",
    "delete",
    "delete_folder",
    "exists",
    "list_files",
    "list_level",
    "local_cache",
    "open_store",
    "publish_bytes",
    "publish_file",
    "read_bytes",
    "read_from",
    "run_log",
    "with_retries",
]
