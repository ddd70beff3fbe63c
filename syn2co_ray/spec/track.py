"""Section `track`: trackers that get a training's metrics beside the run's folder, which stays the truth."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .base import Section


class MlflowSpec(Section):
    """A run in MLflow."""

    tracking_uri: str | None = None
    """Address of the server; MLFLOW_TRACKING_URI when left out. Credentials come from
    MLFLOW_TRACKING_USERNAME, _PASSWORD or _TOKEN."""
    experiment: str = Field(default="syn2co_ray", min_length=1)
    """Name of the experiment, made where it is missing."""


class WandbSpec(Section):
    """A run in Weights & Biases."""

    project: str = Field(min_length=1)
    """Name of the project."""
    entity: str | None = None
    """User or team; the account's own when left out."""
    mode: Literal["online", "offline"] = "online"
    """online: credentials come from WANDB_API_KEY or `wandb login`; offline: into the run's folder, for
    `wandb sync`."""


class TrackSpec(Section):
    """Which trackers get the metrics; what they miss is in the run's folder all the same."""

    tensorboard: bool = False
    """Event files in `tensorboard/` of the run's folder."""
    mlflow: MlflowSpec | None = None
    wandb: WandbSpec | None = None

    @property
    def libraries(self) -> list[str]:
        """Modules that are needed."""
        asked = {"tensorboard": self.tensorboard, "mlflow": self.mlflow, "wandb": self.wandb}
        return [name for name, wanted in asked.items() if wanted]
