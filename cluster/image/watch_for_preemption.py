#!/usr/bin/env python3
"""watch_for_preemption aws|gcp RAY_ADDRESS: tell Ray that this machine will go, once its cloud says so.

For machines that `ray up` started; on Kubernetes the kubelet does it. It asks the machine's metadata server
every two seconds and ends after the news, which makes a run publish a checkpoint at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

METADATA = "http://169.254.169.254"
EVERY_S = 2.0
NOTICE_S = {"aws": 120, "gcp": 30}
"""How long before the end each cloud tells."""


def aws_will_take_it(metadata: str) -> bool:
    """Whether EC2 has announced this spot instance's end (404 until then)."""
    ask = urllib.request.Request(
        f"{metadata}/latest/api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    )
    token = _answer(ask)
    headers = {"X-aws-ec2-metadata-token": token}
    try:
        _answer(urllib.request.Request(f"{metadata}/latest/meta-data/spot/instance-action", headers=headers))
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise
    return True


def gcp_will_take_it(metadata: str) -> bool:
    """Whether Compute Engine has announced this VM's end."""
    place = f"{metadata}/computeMetadata/v1/instance/preempted"
    return _answer(urllib.request.Request(place, headers={"Metadata-Flavor": "Google"})) == "TRUE"


def _answer(request: urllib.request.Request) -> str:
    with urllib.request.urlopen(request, timeout=5) as response:
        return response.read().decode().strip()


def wait(cloud: str, metadata: str = METADATA, every_s: float = EVERY_S) -> None:
    """Return when the machine's end has been announced."""
    will_take_it = {"aws": aws_will_take_it, "gcp": gcp_will_take_it}[cloud]
    while True:
        try:
            if will_take_it(metadata):
                return
        except (OSError, urllib.error.URLError) as error:
            # The metadata server answers again soon; not to ask it any more would be to miss the news.
            print(f"metadata server: {error}", file=sys.stderr)
        time.sleep(every_s)


def announce(address: str, notice_s: int) -> None:
    """Mark this machine's Ray node as one that will go."""
    command = ("ray", "drain-node", "--address", address, "--reason", "DRAIN_NODE_REASON_PREEMPTION")
    words = ("--reason-message", "the cloud takes the machine", "--deadline-remaining-seconds", str(notice_s))
    subprocess.run([*command, *words], check=True, env=os.environ | {"RAY_ADDRESS": address})


if __name__ == "__main__":
    wait(sys.argv[1])
    announce(sys.argv[2], NOTICE_S[sys.argv[1]])
