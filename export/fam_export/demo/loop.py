"""A resumable training loop whose learning rate is a function of the clock.

The loop ends at a deadline, not after a number of steps: the learning rate warms up and then
follows a cosine in `elapsed / available time`, so a run on a slow or shared machine still ends
annealed.
Randomness is a function of (seed, step, process): a resumed run needs no generator state.

Under `torchrun` the processes train data-parallel, averaging their gradients once a step.  On a
shared machine two processes of one thread each are much faster than one process of two threads:
they wait for each other once a step instead of once an operation.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn

#: loss(step, rng) -> (scalar loss to minimise, further figures for the log).
LossFunction = Callable[[int, np.random.Generator], tuple[Tensor, dict[str, float]]]

WARM_UP = 0.03  # share of the time over which the learning rate rises from zero
FINAL_LEARNING_RATE = 0.01  # share of the peak that is left at the deadline


@dataclass(frozen=True)
class LoopSettings:
    """How to train one module; times in seconds."""

    name: str
    output: Path
    deadline: float  # Unix time at which the learning rate has decayed and the loop ends
    peak_learning_rate: float
    weight_decay: float = 0.01
    ema_decay: float = 0.999
    max_gradient_norm: float = 1.0
    save_every_s: float = 180.0
    log_every_steps: int = 20
    seed: int = 0

    @property
    def checkpoint(self) -> Path:
        """Where weights, optimizer and averages are kept between sessions."""
        return self.output / f"{self.name}.pt"

    @property
    def log(self) -> Path:
        """One JSON object a line: step, seconds, learning_rate, loss and further figures."""
        return self.output / f"{self.name}.jsonl"


def learning_rate_factor(fraction: float) -> float:
    """Linear warm-up, then half a cosine, over the fraction 0..1 of the available time."""
    if fraction < WARM_UP:
        return max(fraction / WARM_UP, 0.01)
    progress = min((fraction - WARM_UP) / (1.0 - WARM_UP), 1.0)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return FINAL_LEARNING_RATE + (1.0 - FINAL_LEARNING_RATE) * cosine


def save_atomically(state: dict[str, Any], path: Path) -> None:
    """torch.save to a temporary name, synced, then renamed."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    with temporary.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def process_rank() -> int:
    """This process's number in a data-parallel run; 0 alone."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def _average_over_processes(parameters: list[nn.Parameter], fraction: float) -> float:
    """Average the gradients, and the clock, over the processes; returns the average fraction."""
    if not distributed.is_initialized():
        return fraction
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([g.flatten() for g in gradients] + [gradients[0].new_tensor([fraction])])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    start = 0
    for parameter in parameters:
        parameter.grad = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    return float(flat[-1])


class _Run:
    """The state of one training run: weights, optimizer, averages, step, first start."""

    def __init__(self, module: nn.Module, settings: LoopSettings) -> None:
        self.module, self.settings = module, settings
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.peak_learning_rate, weight_decay=settings.weight_decay
        )
        self.ema = {name: value.detach().clone() for name, value in module.state_dict().items()}
        self.step, self.started = 0, time.time()
        if settings.checkpoint.exists():
            self._resume()

    def _resume(self) -> None:
        device = self.parameters[0].device
        state = torch.load(self.settings.checkpoint, map_location=device, weights_only=True)
        self.module.load_state_dict(state["module"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.ema, self.step, self.started = state["ema"], state["step"], state["started"]

    def save(self) -> None:
        if process_rank() != 0:
            return
        state = {
            "module": self.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema,
            "step": self.step,
            "started": self.started,
        }
        save_atomically(state, self.settings.checkpoint)

    def fraction(self) -> float:
        """Elapsed share of the time between the first start and the deadline."""
        available = max(self.settings.deadline - self.started, 1.0)
        return (time.time() - self.started) / available

    def advance(self, loss: Tensor, fraction: float) -> float:
        """One optimizer step, then the moving average (which itself warms up).

        Returns the elapsed fraction as all processes see it.
        """
        factor = learning_rate_factor(fraction)
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.peak_learning_rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        agreed = _average_over_processes(self.parameters, self.fraction())
        nn.utils.clip_grad_norm_(self.parameters, self.settings.max_gradient_norm)
        self.optimizer.step()
        self.step += 1
        decay = min(self.settings.ema_decay, (1.0 + self.step) / (10.0 + self.step))
        with torch.no_grad():
            for name, value in self.module.state_dict().items():
                if value.is_floating_point():
                    self.ema[name].lerp_(value, 1.0 - decay)
                else:
                    self.ema[name].copy_(value)
        return agreed


def train(module: nn.Module, loss_function: LossFunction, settings: LoopSettings) -> None:
    """Train `module` in place until the deadline; a killed run goes on from its checkpoint."""
    settings.output.mkdir(parents=True, exist_ok=True)
    run = _Run(module, settings)
    saved_at, fraction = time.time(), run.fraction()
    if distributed.is_initialized():
        agreed = torch.tensor([fraction], device=run.parameters[0].device)
        distributed.broadcast(agreed, 0)
        fraction = agreed.item()
    module.train()
    with settings.log.open("a", encoding="utf-8") as log:
        while fraction < 1.0:
            torch.manual_seed(settings.seed * 1_000_003 + run.step * 64 + process_rank())
            rng = np.random.default_rng((settings.seed, run.step, process_rank()))
            loss, figures = loss_function(run.step, rng)
            rate = settings.peak_learning_rate * learning_rate_factor(fraction)
            fraction = run.advance(loss, fraction)
            if process_rank() == 0 and run.step % settings.log_every_steps == 0:
                line = {"step": run.step, "seconds": round(time.time() - run.started, 1)}
                line |= {"learning_rate": rate, "loss": loss.item(), **figures}
                log.write(json.dumps(line) + "\n")
                log.flush()
            if time.time() - saved_at > settings.save_every_s:
                run.save()
                saved_at = time.time()
    run.save()


def load_average(module: nn.Module, checkpoint: Path) -> int:
    """Load the moving average of a checkpoint into `module`; returns the step it was taken at."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    module.load_state_dict(state["ema"])
    return int(state["step"])
