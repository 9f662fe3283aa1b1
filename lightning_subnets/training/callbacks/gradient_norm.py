"""The norm of the gradient."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from lightning_subnets.training.lightning_internals import logs_at_this_step


class GradientNorm(Callback):
    """Logs ``train/gradient_norm`` at the logging interval: |g|_2 of all trained parameters as one vector.

    g is the gradient of the whole step: accumulated, averaged over the ranks, unscaled, before clipping.
    """

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        if not logs_at_this_step(trainer):
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        norm = get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            # Such an optimizer unscales in its own step; the public get_scale() would make the host wait.
            norm = norm / scaler._get_scale_async()
        pl_module.log("train/gradient_norm", norm)
