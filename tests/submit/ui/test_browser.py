"""The pages in a real browser: headless Chromium draws them, light and dark, and runs nothing."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .conftest import Client, Serve

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=1400,1200",
)
DARK = "--blink-settings=preferredColorScheme=0"


def screenshot(client: Client, path: str, folder: Path, *flags: str) -> np.ndarray:
    """Pixels (H, W, 3) uint8 of a page as Chromium draws it."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("needs chromium (Debian: chromium)")
    picture = folder / "page.png"
    subprocess.run(
        [
            chromium,
            *FLAGS,
            *flags,
            f"--user-data-dir={folder / 'profile'}",
            f"--screenshot={picture}",
            f"http://127.0.0.1:{client.port}{path}",
        ],
        capture_output=True,
        timeout=180,
        check=True,
    )
    return np.asarray(Image.open(io.BytesIO(picture.read_bytes())).convert("RGB"))


def drawn(client: Client, path: str, folder: Path) -> np.ndarray:
    """The page in light, (H, W, 3) uint8, once it is known to show something in light and in dark."""
    light = screenshot(client, path, folder)
    dark = screenshot(client, path, folder, DARK)
    assert light.shape == dark.shape == (1200, 1400, 3)
    # Ground and ink: the corner is the ground, and something else is drawn over a part of the page.
    assert light[0, 0].min() > 230
    assert dark[0, 0].max() < 40
    for pixels in (light, dark):
        assert 0.002 < ink(pixels) < 0.9
    return light


def ink(pixels: np.ndarray) -> float:
    """Part of the page that is not its ground."""
    return float((np.abs(pixels.astype(int) - pixels[0, 0]).max(axis=2) > 60).mean())


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", ["/", "/run/0/digits-synby-3fa9c1d2", "/search/0/search-44444444", "/data/0/generated"]
)
def test_a_page_is_drawn_in_light_and_in_dark(client: Client, tmp_path: Path, path: str) -> None:
    drawn(client, path, tmp_path)


@pytest.mark.slow
@pytest.mark.ray
def test_the_list_is_drawn_with_the_cluster_in_it(
    serve: Serve, storage: Path, tmp_path: Path, cluster_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_cluster = drawn(serve(str(storage)), "/", tmp_path)
    monkeypatch.delenv("RAY_ADDRESS")
    assert ink(with_cluster) > 1.01 * ink(drawn(serve(str(storage)), "/", tmp_path))
