"""HAProxy in front of the S3 server of the tests: it delays, refuses, resets, stops and cuts what passes.

Debian: `apt-get install --no-install-recommends haproxy`. What happens to a request is drawn for each anew, in
thousandths, and can be changed while clients work.
"""

from __future__ import annotations

import csv
import io
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Template
from urllib.parse import urlsplit

from .object_store import ObjectStore

CONFIG = Template("""\
global
  stats socket $folder/control mode 600 level admin
  lua-load $folder/delay.lua
  maxconn 2000
defaults
  mode http
  timeout client 300s
  timeout server 300s
  timeout connect 5s
  $closing
  http-reuse never
  timeout http-keep-alive 100ms
frontend store
  bind $address:$port
  http-request set-var(txn.delay_ms) str(delay_ms),map($folder/faults,0)
  http-request lua.delay if { var(txn.delay_ms) -m int gt 0 }
  http-request set-var(txn.per_mille) str(slow_down_per_mille),map($folder/faults,0)
  http-request set-var(txn.drawn) rand(1000),sub(txn.per_mille)
  http-request return status 503 content-type application/xml string "$slow_down" if { var(txn.drawn) -m int lt 0 }
  http-request set-var(txn.per_mille) str(reset_per_mille),map($folder/faults,0)
  http-request set-var(txn.drawn) rand(1000),sub(txn.per_mille)
  http-request reject if { var(txn.drawn) -m int lt 0 }
  http-request set-var(txn.per_mille) str(silent_per_mille),map($folder/faults,0)
  http-request set-var(txn.drawn) rand(1000),sub(txn.per_mille)
  http-request silent-drop if { var(txn.drawn) -m int lt 0 }
  http-request set-var(txn.per_mille) str(next_page_reset_per_mille),map($folder/faults,0)
  http-request set-var(txn.drawn) rand(1000),sub(txn.per_mille)
  http-request reject if { url_param(continuation-token) -m found } { var(txn.drawn) -m int lt 0 }
  default_backend store
backend store
  server one $target
""")
SLOW_DOWN = (
    r"<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>SlowDown</Code>"
    r"<Message>Please reduce your request rate.</Message><RequestId>fault</RequestId></Error>"
)
DELAY = """\
core.register_action("delay", {"http-req"}, function(txn) core.msleep(tonumber(txn:get_var("txn.delay_ms"))) end, 0)
"""
FAULTS = (
    "delay_ms",
    "slow_down_per_mille",
    "reset_per_mille",
    "silent_per_mille",
    "next_page_reset_per_mille",
)


@dataclass
class FaultyStore:
    """The S3 server behind HAProxy; a fault is off until `set` turns it on."""

    store: ObjectStore
    folder: Path
    address: tuple[str, int]
    direct: ObjectStore
    _process: subprocess.Popen[bytes] = field(init=False)

    def set(self, **faults: int) -> None:
        """Values of FAULTS, from the next request on."""
        for name, value in faults.items():
            assert name in FAULTS
            self._command(f"set map {self.folder}/faults {name} {value}")

    def heal(self) -> None:
        """Turn all faults off, and accept connections."""
        self.thaw()
        self.start()
        self.set(**dict.fromkeys(FAULTS, 0))

    def cut(self) -> None:
        """End (RST) the connections that carry a request or an answer now."""
        self._command("shutdown sessions server store/one")

    def requests(self) -> int:
        """Requests that came so far, refused ones too."""
        return self._of_frontend("req_tot")

    def bytes_sent(self) -> int:
        """Bytes of answers so far, headers too."""
        return self._of_frontend("bout")

    def stop(self) -> None:
        """Accept no connection any more, and end those there are."""
        self._command("disable frontend store")
        while self._of_frontend("scur"):  # idle ones end by themselves
            self.cut()
            time.sleep(0.02)

    def freeze(self) -> None:
        """Keep all connections, and answer nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on where `freeze` stopped."""
        self._process.send_signal(signal.SIGCONT)

    def start(self) -> None:
        """Accept connections again."""
        self._command("enable frontend store")

    def run(self) -> None:
        """Start HAProxy and wait until it answers."""
        command = ["haproxy", "-f", str(self.folder / "haproxy.cfg"), "-db"]
        # The kernel ends it with us, so that a test run that is killed leaves nothing behind.
        with open(self.folder / "log", "ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *command], stdout=log, stderr=log
            )
        until = time.monotonic() + 30
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError((self.folder / "log").read_text())
            time.sleep(0.02)

    def end(self) -> None:
        """Kill HAProxy."""
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(self.address) == 0

    def _of_frontend(self, name: str) -> int:
        rows = csv.DictReader(io.StringIO(self._command("show stat").lstrip("# ")))
        return next(int(row[name]) for row in rows if row["svname"] == "FRONTEND")

    def _command(self, words: str) -> str:
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self.folder / "control"))
            control.sendall(f"{words}\n".encode())
            answer = b"".join(iter(lambda: control.recv(65536), b""))
        return answer.decode()


def missing_binaries() -> list[str]:
    return [name for name in ("haproxy", "setpriv") if shutil.which(name) is None]


@contextmanager
def running_faulty_store(
    store: ObjectStore, address: str = "127.0.0.1", *, nolinger: bool = True
) -> Iterator[FaultyStore]:
    """Start HAProxy in front of `store`, on an address of this machine, and stop it after the block.

    With `nolinger` nothing is left of a connection that it has closed, at once; over a thin link that would
    be the end of what is still on its way.
    """
    folder = Path(tempfile.mkdtemp(prefix="faults", dir="/tmp"))
    with socket.socket() as free:
        free.bind((address, 0))
        port = int(free.getsockname()[1])
    (folder / "delay.lua").write_text(DELAY)
    (folder / "faults").write_text("".join(f"{name} 0\n" for name in FAULTS))
    target = urlsplit(store.endpoint_url).netloc
    (folder / "haproxy.cfg").write_text(
        CONFIG.substitute(
            folder=folder,
            address=address,
            port=port,
            target=target,
            slow_down=SLOW_DOWN,
            closing="option nolinger" if nolinger else "",
        )
    )
    faulty = FaultyStore(
        replace(store, endpoint_url=f"http://{address}:{port}"), folder, (address, port), store
    )
    try:
        faulty.run()
        yield faulty
    finally:
        faulty.end()
        shutil.rmtree(folder, ignore_errors=True)
