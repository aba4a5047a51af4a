"""Pipelines like `returns`: `slow`, which evaluates for seconds, `own`, which has a training function of its
own, and `sharded`, whose network lies in shards.
"""

import time
from dataclasses import replace
from typing import Any

from sample_project.pipelines import visits

from forecache.declare import TorchModel, Training

SLEEP_S = 0.25


def slow_in_evaluation(num_features: int) -> Any:
    import torch
    from torch import nn

    class Slow(nn.Sequential):
        def forward(self, features: torch.Tensor) -> torch.Tensor:
            if not self.training and not torch.compiler.is_exporting():
                time.sleep(SLEEP_S)
            return super().forward(features)

    return Slow(nn.Linear(num_features, 8), nn.ReLU(), nn.Linear(8, 1))


slow = replace(
    visits.returns,
    name="slow",
    model=TorchModel(build=slow_in_evaluation),
    training=Training(epochs=2, batch_size=16, learning_rate=0.01),
)


def by_momentum(run: Any) -> Any:
    """Stochastic gradient descent with momentum under DDP: a loop that the framework does not have."""
    import torch
    from torch.nn.parallel import DistributedDataParallel

    network = run.build()
    ddp = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    total = 0.0
    if run.restored is not None:
        network.load_state_dict(run.restored["network"])
        optimizer.load_state_dict(run.restored["optimizer"])
        total = run.restored["total"] if run.rank == 0 else 0.0

    def state() -> dict[str, Any]:
        nonlocal total
        [whole] = run.sum(total)
        total = whole if run.rank == 0 else 0.0
        return {"network": network.state_dict(), "optimizer": optimizer.state_dict(), "total": whole}

    while run.epoch < run.training.epochs:
        ddp.train()
        for features, label in run.batches():
            optimizer.zero_grad()
            loss = run.loss(ddp(features), label)
            (loss * (len(label) * run.world_size / run.step_rows)).backward()
            optimizer.step()
            total += float(loss) * len(label)
            run.step_done(state)
        [whole] = run.sum(total)
        total = 0.0
        run.end_epoch(network, state, train_loss=whole / run.num_rows)
    return network


own = replace(
    visits.returns,
    name="own",
    model=TorchModel(build=visits.network, fit=by_momentum),
    training=Training(epochs=12, batch_size=64),
)
sharded = replace(
    visits.returns,
    name="sharded",
    training=Training(
        epochs=6,
        batch_size=64,
        learning_rate=0.01,
        patience=1000,
        accumulation=2,
        max_gradient_norm=1.0,
        schedule="cosine",
        warmup_share=0.1,
        parallel="fsdp",
    ),
)
