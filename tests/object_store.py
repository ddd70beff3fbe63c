"""A real S3 store for tests: Ceph's gateway with one monitor and one disk, on 127.0.0.1 and free ports.

Debian: `apt-get install --no-install-recommends radosgw ceph-mon ceph-osd`. It is production code with S3's
true semantics: wrong keys are refused, an object is whole or absent, lists are paged. It stops exactly the
processes it started. Also usable by hand: `python -m tests.object_store` prints the AWS_* settings and serves
until Ctrl-C.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template

from pyarrow import fs

BINARIES = (
    "ceph",
    "ceph-authtool",
    "ceph-mon",
    "ceph-osd",
    "monmaptool",
    "radosgw",
    "radosgw-admin",
    "setpriv",
)

# cephx stays on: the gateway refuses to run without it. tcp_nodelay: a small read takes 47 ms otherwise.
# Classes `*`: the gateway's own object classes must load. Both store sizes are sparse files.
CONFIG = Template("""\
[global]
fsid = $fsid
mon host = v2:127.0.0.1:$monitor_port
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind msgr1 = false
ms type = async+posix
auth cluster required = cephx
auth service required = cephx
auth client required = cephx
auth allow insecure global id reclaim = true
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 2000
run dir = $folder/run
admin socket = $folder/run/$$name.asok
log file = $folder/log/$$name.log
pid file = $folder/run/$$name.pid
keyring = $folder/keyring
[mon]
mon data = $folder/mon
mon initial members = a
mon data avail crit = 1
mon data avail warn = 1
[osd]
osd data = $folder/osd
osd objectstore = bluestore
bluestore block size = 8589934592
bluestore block create = true
bluestore fsck on mount = false
osd memory target = 939524096
osd class load list = *
osd class default list = *
[client.rgw.a]
rgw frontends = beast endpoint=127.0.0.1:$gateway_port tcp_nodelay=1
rgw dns name = 127.0.0.1
rgw enable apis = s3, admin
rgw thread pool size = 64
rgw run sync thread = false
""")


@dataclass(frozen=True)
class ObjectStore:
    """A running S3 store: where it is and the one user it knows."""

    endpoint_url: str
    access_key: str = "testaccesskey"
    secret_key: str = "testsecretkey"
    config: Path | None = None

    @contextmanager
    def user(self, name: str) -> Iterator[ObjectStore]:
        """Another user, with keys named after him; after the block the store knows neither."""
        access_key, secret_key = f"{name}-access-key", f"{name}-secret-key"
        admin = ("radosgw-admin", "-c", str(self.config), "user")
        keys = (f"--access-key={access_key}", f"--secret-key={secret_key}")
        _call(*admin, "create", f"--uid={name}", f"--display-name={name}", *keys)
        try:
            yield replace(self, access_key=access_key, secret_key=secret_key)
        finally:
            _call(*admin, "rm", f"--uid={name}", "--purge-data")

    def new_keys(self, name: str, access_key: str, secret_key: str) -> ObjectStore:
        """Give a user other keys; his old ones are refused from now on."""
        admin = ("radosgw-admin", "-c", str(self.config), "key")
        new = (f"--access-key={access_key}", f"--secret-key={secret_key}")
        _call(*admin, "create", f"--uid={name}", "--key-type=s3", *new)
        _call(*admin, "rm", f"--uid={name}", "--key-type=s3", f"--access-key={self.access_key}")
        return replace(self, access_key=access_key, secret_key=secret_key)

    def limit(self, bucket: str, bytes_max: int) -> None:
        """Let a bucket take no more than so many bytes."""
        quota = ("radosgw-admin", "-c", str(self.config), "quota")
        of = ("--quota-scope=bucket", f"--bucket={bucket}")
        _call(*quota, "set", *of, f"--max-size={bytes_max}")
        _call(*quota, "enable", *of)

    @property
    def environment(self) -> dict[str, str]:
        """AWS_* variables that make every S3 client of a process find this store."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }

    def make_bucket(self, name: str) -> str:
        """Create the bucket (3 characters or more) unless it is there; returns s3://name."""
        fs.S3FileSystem(
            access_key=self.access_key,
            secret_key=self.secret_key,
            endpoint_override=self.endpoint_url,
            region="us-east-1",
            allow_bucket_creation=True,
        ).create_dir(name)
        return f"s3://{name}"


def missing_binaries() -> list[str]:
    """Programs of the store that this machine lacks; the store can start when there are none."""
    return [name for name in BINARIES if shutil.which(name) is None]


@contextmanager
def running_object_store() -> Iterator[ObjectStore]:
    """Start a store with empty disks, yield it, stop it and delete its files."""
    folder = Path(tempfile.mkdtemp(prefix="syn2co-ceph-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield _start(folder, stack)


def _start(folder: Path, stack: ExitStack) -> ObjectStore:
    monitor_port, gateway_port = _free_ports(2)
    fsid = str(uuid.uuid4())
    for name in ("mon", "osd", "run", "log"):
        (folder / name).mkdir()
    config = folder / "ceph.conf"
    config.write_text(
        CONFIG.substitute(fsid=fsid, folder=folder, monitor_port=monitor_port, gateway_port=gateway_port)
    )
    ceph = ("ceph", "-c", str(config), "--connect-timeout", "5")

    _make_monitor(folder, fsid, monitor_port)
    monitor = _spawn(folder, stack, "ceph-mon", "-c", str(config), "-i", "a", "-f")
    _wait_until(lambda: _succeeds(*ceph, "-s"), monitor, folder, "the monitor")

    disk_id = str(uuid.uuid4())
    _call(*ceph, "osd", "new", disk_id)
    _call("ceph-osd", "-c", str(config), "-i", "0", "--mkfs", "--osd-uuid", disk_id)
    disk = _spawn(folder, stack, "ceph-osd", "-c", str(config), "-i", "0", "-f")
    _wait_until(lambda: _disks_up(ceph) == 1, disk, folder, "the disk")

    store = ObjectStore(endpoint_url=f"http://127.0.0.1:{gateway_port}", config=config)
    gateway = _spawn(folder, stack, "radosgw", "-c", str(config), "-n", "client.rgw.a", "-f")
    _wait_until(lambda: _answers(gateway_port), gateway, folder, "the gateway")
    admin = ("radosgw-admin", "-c", str(config), "user", "create", "--uid=test", "--display-name=test")
    _call(*admin, f"--access-key={store.access_key}", f"--secret-key={store.secret_key}")
    return store


def _make_monitor(folder: Path, fsid: str, port: int) -> None:
    keyring, config = str(folder / "keyring"), str(folder / "ceph.conf")
    everything = [part for daemon in ("mon", "osd", "mgr") for part in ("--cap", daemon, "allow *")]
    profile = [
        "--cap",
        "mon",
        "allow profile osd",
        "--cap",
        "mgr",
        "allow profile osd",
        "--cap",
        "osd",
        "allow *",
    ]
    users = {
        "mon.": ["--cap", "mon", "allow *"],
        "client.admin": everything,
        "client.rgw.a": everything,
        "osd.0": profile,
    }
    _call("ceph-authtool", "--create-keyring", keyring)
    for user, caps in users.items():
        _call("ceph-authtool", keyring, "--gen-key", "-n", user, *caps)
    address = f"[v2:127.0.0.1:{port}]"
    _call("monmaptool", "--create", "--fsid", fsid, "--addv", "a", address, str(folder / "monmap"))
    mkfs = ("ceph-mon", "-c", config, "--mkfs", "-i", "a")
    _call(*mkfs, "--monmap", str(folder / "monmap"), "--keyring", keyring)


def _spawn(folder: Path, stack: ExitStack, *command: str) -> subprocess.Popen[bytes]:
    with open(folder / "log" / f"{command[0]}.out", "wb") as output:
        # The kernel ends the daemon with us, so that a test run that is killed leaves nothing behind.
        command = ("setpriv", "--pdeathsig", "KILL", *command)
        process = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    stack.callback(_stop, process)
    return process


def _stop(process: subprocess.Popen[bytes]) -> None:
    # The data are thrown away, so nothing is gained by the slow orderly shutdown.
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)


def _call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, timeout=30).returncode == 0


def _disks_up(ceph: tuple[str, ...]) -> int:
    return int(json.loads(_call(*ceph, "osd", "stat", "-f", "json"))["num_up_osds"])


def _answers(port: int) -> bool:
    with socket.socket() as connection:
        connection.settimeout(1)
        return connection.connect_ex(("127.0.0.1", port)) == 0


def _wait_until(
    ready: Callable[[], bool],
    process: subprocess.Popen[bytes],
    folder: Path,
    what: str,
    timeout_s: float = 120,
) -> None:
    deadline = time.monotonic() + timeout_s
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            logs = "\n".join(f.read_text(errors="replace")[-2000:] for f in (folder / "log").glob("*.out"))
            state = f"ended with {process.returncode}" if process.poll() is not None else "is still starting"
            raise RuntimeError(f"{what} {state} after at most {timeout_s} s:\n{logs}")
        time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _serve() -> None:
    with running_object_store() as store:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        print("\n".join(f"export {name}={value}" for name, value in store.environment.items()), flush=True)
        print(f"# serving as {os.getpid()}; Ctrl-C ends it", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})


if __name__ == "__main__":
    _serve()
