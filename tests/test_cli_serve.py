"""`syn2co serve` as a user types it, as far as nothing is started."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from syn2co_ray.cli import app


def test_help_says_what_it_answers_and_warns_of_other_addresses() -> None:
    told = " ".join(CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).stdout.split())
    for words in ("POST an image to /embed", "WARNING: with another than loopback's", "SYN2CO_SERVE_TOKEN"):
        assert words in told
    assert "5 no room on the cluster" in told


def test_faults_of_options_are_exit_2_and_a_place_without_weights_4(tmp_path: Path) -> None:
    file = tmp_path / "net.safetensors"
    file.write_bytes(b"")
    for words, code, message in (
        ([str(file)], 2, "--backbone: missing"),
        ([str(file), "--backbone", "resnet18", "--port", "70000", "--batch-wait-ms", "-1"], 2, "2 faults"),
        ([str(file), "--backbone", "resnet18", "--host", "0.0.0.0"], 2, "set SYN2CO_SERVE_TOKEN"),
        ([str(tmp_path)], 4, "neither spec.yaml of a run nor config.json"),
    ):
        done = CliRunner().invoke(app, ["serve", *words], env={"SYN2CO_SERVE_TOKEN": ""})
        assert (done.exit_code, message in done.stderr.replace("\n", " ")) == (code, True), done.stderr
