"""The settings of training and scoring."""

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings


class WorkSettings(BaseSettings):
    """Workers, memory and devices of training and scoring, and their prices."""

    training_workers: int = Field(2, ge=1, description="torchrun workers per node.")
    training_nodes: str = Field(
        "1", pattern=r"^[1-9]\d*(:[1-9]\d*)?$", description="torchrun --nnodes: a number or min:max."
    )
    training_rendezvous: str = Field("", description="torchrun --rdzv-endpoint host:port for several nodes.")
    training_max_restarts: int = Field(3, ge=0, description="Worker-group restarts before a training run fails.")
    training_checkpoints: str = Field(
        "", description="Folder or s3:// URI of training checkpoints. Default: in each run's folder."
    )
    scoring_batch_rows: int = Field(0, ge=0, description="Rows a model scores at once; 0: calibrated on a sample.")
    scoring_worker_memory_mb: int = Field(
        1024, ge=64, description="Memory of a scoring worker; its batches take up to a quarter of it."
    )
    prices: dict[str, tuple[float, float]] = Field(
        default_factory=dict,
        description="Prices (JSON) of an hour, [on demand, spot], of a device by a part of its name, of a core as cpu, "
        "of a reader as replica; and of a GB for a month, [on disks, in an object store], as storage.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Training device; auto takes GPUs if any.")
    code_version: str = Field(
        "", description="Code version recorded with every run. Default: the git commit, or a hash of the source."
    )
