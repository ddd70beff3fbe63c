"""Several hosts on one machine: network namespaces on a bridge, each with a name, an address, /tmp/ray and /dev/shm
of its own. Links can be cut and slowed down. Needs root, `ip` and `tc` (Debian: iproute2).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

BRIDGE = "syn2co"
SUBNET = "10.77.0"


def missing() -> str:
    """What this machine lacks, in words; empty when hosts can be made."""
    if os.geteuid() != 0:
        return "root"
    lacking = [name for name in ("ip", "tc", "unshare") if shutil.which(name) is None]
    if lacking:
        return ", ".join(lacking)
    allowed = subprocess.run(["ip", "netns", "add", "syn2co-probe"], capture_output=True).returncode == 0
    if allowed:
        subprocess.run(["ip", "netns", "del", "syn2co-probe"], check=True)
    return "" if allowed else "the right to make network namespaces"


class Hosts:
    """Hosts 1 to `count`, with addresses 10.77.0.1 and so on; this machine is 10.77.0.254."""

    def __init__(self, count: int) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="hosts", dir="/tmp"))
        self._numbers = range(1, count + 1)

    def __enter__(self) -> Hosts:
        _ip(f"link add {BRIDGE} type bridge")
        _ip(f"addr add {self.gateway}/24 dev {BRIDGE}")
        _ip(f"link set {BRIDGE} up")
        for number in self._numbers:
            self._make(number)
        return self

    def __exit__(self, *error: object) -> None:
        for number in self._numbers:
            self.kill(number)
            # A namespace is there until its last process has ended; its link must not wait for that.
            _ip(f"link del {self._link(number)}")
            _ip(f"netns del {self._name(number)}")
            shutil.rmtree(f"/etc/netns/{self._name(number)}")
        _ip(f"link del {BRIDGE}")
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def gateway(self) -> str:
        """Address of this machine, as the hosts see it."""
        return f"{SUBNET}.254"

    def address(self, number: int) -> str:
        return f"{SUBNET}.{number}"

    def ray_folder(self, number: int) -> Path:
        """What a host sees as /tmp/ray."""
        return self._folder / str(number)

    def command(self, number: int, *words: str) -> list[str]:
        """The words, to be run on a host."""
        ray = self.ray_folder(number)
        inside = (
            f"hostname h{number}; mkdir -p /tmp/ray; mount --bind {ray} /tmp/ray; "
            'mount -t tmpfs -o size=2g tmpfs /dev/shm; exec "$@"'
        )
        return [
            "ip",
            "netns",
            "exec",
            self._name(number),
            "unshare",
            "-um",
            "bash",
            "-c",
            inside,
            "_",
            *words,
        ]

    def cut(self, number: int) -> None:
        """Take a host's link away."""
        _ip(f"link set {self._link(number)} down")

    def join(self, number: int) -> None:
        """Give it back."""
        _ip(f"link set {self._link(number)} up")

    def slow(self, number: int, megabits_per_s: int) -> None:
        """Bound what a host receives."""
        shape = f"tbf rate {megabits_per_s}mbit burst 256kb latency 400ms"
        subprocess.run(
            ["tc", "qdisc", "replace", "dev", self._link(number), "root", *shape.split()], check=True
        )

    def kill(self, number: int) -> None:
        """SIGKILL to all processes of a host."""
        done = subprocess.run(["ip", "netns", "pids", self._name(number)], capture_output=True, text=True)
        for pid in done.stdout.split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue

    def _make(self, number: int) -> None:
        name, link = self._name(number), self._link(number)
        _ip(f"netns add {name}")
        _ip(f"link add {link} type veth peer name eth0 netns {name}")
        _ip(f"link set {link} master {BRIDGE} up")
        for words in ("link set lo up", f"addr add {self.address(number)}/24 dev eth0", "link set eth0 up"):
            _ip(f"-n {name} {words}")
        _ip(f"-n {name} route add default via {self.gateway}")
        self.ray_folder(number).mkdir()
        # Ranks find each other by name; without a resolver that answers, each connection waits for one.
        settings = Path(f"/etc/netns/{name}")
        settings.mkdir(parents=True, exist_ok=True)
        (settings / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
        names = [f"{self.address(n)} h{n}" for n in self._numbers]
        (settings / "hosts").write_text("\n".join(["127.0.0.1 localhost", *names, ""]))

    def _name(self, number: int) -> str:
        return f"{BRIDGE}-{number}"

    def _link(self, number: int) -> str:
        return f"{BRIDGE}{number}"


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)
