"""SupSup: remember a mask for each task, and find the task of unlabelled images by one gradient."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_subnets.errors import UserError, unknown
from lightning_subnets.graph.logits import logits_of
from lightning_subnets.masking import digest, masked_weights, unmask_
from lightning_subnets.masking.initialization import stream_of
from lightning_subnets.masking.masked_weight import multipliers, scores_names
from lightning_subnets.subnet_file import LearnedTask, load_tasks, save_tasks
from lightning_subnets.subnet_file.tasks import EncodedTask, encode, own_state, union


class SupSup:
    """Many tasks in one network of random weights: a mask for each, and one gradient that tells the tasks apart.

    Train the scores of a masked network on a task with an optimizer of its own; ``add`` remembers the task's mask and
    returns the scores to where they started. Nothing that is learned later changes the answers of a task.

    To find the task of unlabelled images x, with effective weights w_i = w * m_i of the tasks i = 1..k:

    Mixture:  p(a) = softmax f(x; sum over i of a_i w_i), a_i = 1 / k.
    Task:     argmax over i of -dH/da_i, with H the entropy of p, averaged over the images.

    dH/da_i = <dH/dw_eff, w_i>, so one backward pass at the mean weight and k dot products give all of them.

    Args:
        net: a network masked by ``mask_``, not trained yet. Its method trains scores and draws no weights
            again, and its weights come from a seed.

    Raises:
        ValueError: if the method trains or re-draws weights, or the weights do not come from one seed.
    Source: Wortsman et al. 2020, "Supermasks in Superposition". Many tasks need outputs that no label names, see
        ``networks.MLP``.
    """

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self._weights = masked_weights(net)
        first = next(each.origin for each in self._weights.values())
        for name, each in self._weights.items():
            if each.method.trainable != "scores" or each.method.rerandomizes:
                raise UserError(
                    f"SupSup remembers masks over weights that never change, and {type(each.method).__name__} changes "
                    "weights: take a method that trains scores and nothing else, such as EdgePopup"
                )
            origin = each.origin
            if first is None or origin is None or origin[:2] != first[:2] or origin.stream != stream_of(name):
                raise UserError(
                    f"the weight {name!r} does not come from the seed of the others: mask the whole network with "
                    "weights='signed_constant' or another distribution"
                )
            if not torch.equal(each.weight.cpu(), origin.draw(each.weight.shape).to(each.weight.dtype)):
                raise UserError(f"the weight {name!r} has changed since it was drawn: mask a new network")
        self._tasks: dict[str, LearnedTask] = {}
        self._encoded: list[EncodedTask] = []  # because encoding takes longer than writing
        self._scores = scores_names(net)
        self._first = {key: each.detach().clone() for key, each in (self._own_scores() | own_state(self.net)).items()}
        self._frozen = digest.weights_digest(net, frozen=True)
        self._mixture: tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]] | None = None

    @property
    def names(self) -> list[str]:
        """The names of the tasks, in the order in which they were added."""
        return [*self._tasks]

    def __len__(self) -> int:
        return len(self._tasks)

    def __repr__(self) -> str:
        return f"SupSup({type(self.net).__name__}, {len(self)} tasks)"

    def add(self, name: str, *, accuracy: float | None = None, preprocessing: Mapping[str, Any] | None = None) -> None:
        """Remember the current mask as the mask of a task, and return the scores to where they started.

        Running statistics and trained norms are remembered and returned too.

        Args:
            name: of the task.
            accuracy: on the task's test images, a fraction.
            preprocessing: of the task's images, where it differs from that of the others: for example ``permutation``.

        Raises:
            ValueError: if there is a task of this name, or frozen weights have changed.
        """
        if not name or name in self._tasks:
            raise UserError(f"{name!r} is the name of another task, or empty: name the task differently")
        if digest.weights_digest(self.net, frozen=True) != self._frozen:
            raise UserError("frozen weights have changed, so the masks of the earlier tasks no longer fit: undo that")
        state = {key: each.detach().clone() for key, each in own_state(self.net).items()}
        self._put(name, LearnedTask(multipliers(self.net), state, accuracy, dict(preprocessing or {})))
        self._return_()

    def network(self, name: str) -> nn.Module:
        """Return a plain network with the mask of a task folded into its weights, in evaluation mode.

        Raises:
            ValueError: if there is no such task.
        """
        task, plain = self._task(name), self._plain()
        with torch.no_grad():
            for key, weight in self._effective(task).items():
                plain.get_parameter(key).copy_(weight)
            plain.load_state_dict(task.state, strict=False)
        return plain

    def infer(self, images: Tensor) -> str:
        """Return the name of the task that a batch of unlabelled images belongs to, by one gradient of the entropy.

        Args:
            images: a batch of one task, as the network takes them: float and normalised.

        Raises:
            ValueError: if there are no tasks, or the gradient is not finite.
        """
        slopes = self.slopes(images)
        return max(slopes, key=slopes.__getitem__)

    def slopes(self, images: Tensor) -> dict[str, float]:
        """Return -dH/da_i of each task by its name: how fast the entropy falls if the task has more of the mixture.

        See ``infer``, which returns the name of the largest one.
        """
        if not self._tasks:
            raise UserError("there are no tasks to choose from: add(name) after training on each")
        with torch.inference_mode(False), torch.enable_grad():  # inference mode has no gradients
            key, masked = next(iter(self._weights.items()))
            if self._mixture is not None and not _alike(self._mixture[1][key], masked.weight):
                self._mixture = None  # because ``net`` was moved or cast
            plain, mean, state = self._mixture = self._mixture or self._mix()
            weights = {key: each.detach().requires_grad_() for key, each in mean.items()}
            # A tensor that inference mode has made has no gradients either.
            output = functional_call(plain, weights | state, (images.clone() if images.is_inference() else images,))
            chances = logits_of(plain, output).log_softmax(dim=-1)
            entropy = -(chances.exp() * chances).sum(dim=-1).mean()
            gradients = torch.autograd.grad(entropy, list(weights.values()), allow_unused=True)
        used = [(key, each) for key, each in zip(weights, gradients, strict=True) if each is not None]
        slopes = torch.stack([self._slope(task, used) for task in self._tasks.values()])
        if not slopes.isfinite().all():
            raise UserError("the entropy has no finite gradient: check that the images are finite and normalised")
        return dict(zip(self._tasks, slopes.tolist(), strict=True))

    def save(
        self,
        path: str | Path,
        *,
        network: str | Mapping[str, Any] | None = None,
        classes: Sequence[str] = (),
        preprocessing: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> None:
        """Save all tasks into a ``.subnet`` file: the seed once, and the masks of each task near their entropy.

        Args:
            path: the file to write. It is written completely or not at all.
            network: the builder of the network; this argument and those below are as for ``save_subnet``.
            classes: the names of the classes, if they are the same in all tasks.
            preprocessing: of the images, as far as it is the same in all tasks.
            force: replace an existing file.

        Raises:
            ValueError: as ``save_subnet`` does, and if there are no tasks.
        """
        if not self._tasks:
            raise UserError("there are no tasks to save: add(name) after training on each")
        kept = union(self._tasks.values())
        about = {"network": network, "classes": classes, "preprocessing": preprocessing, "force": force}
        save_tasks(self.net, path, self._encoded, kept, self._first, **about)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: str | Path, *, network: nn.Module | None = None) -> SupSup:
        """Return the tasks of a file, ready to add more; ``net`` starts where it did for the first task.

        Args:
            path: the file, or its address, as for ``load_subnet``.
            network: a plain network to load into, as for ``load_subnet``; or the masked network to train further tasks
                on, masked as for the first task and not trained yet.

        Raises:
            ValueError: as ``load_subnet`` does, if the file has no tasks, or if the masked network has other weights.
        """
        net, found = load_tasks(path, network)
        tasks = cls(net)
        for name, task in found.items():
            tasks._put(name, task)
        return tasks

    def _slope(self, task: LearnedTask, gradients: list[tuple[str, Tensor]]) -> Tensor:
        effective = self._effective(task)
        return -torch.stack([torch.sum(gradient * effective[key]) for key, gradient in gradients]).sum()

    def _mix(self) -> tuple[nn.Module, dict[str, Tensor], dict[str, Tensor]]:
        """Return a plain network, and the means over all tasks of its masked weights and of the tasks' own state."""
        tasks = [*self._tasks.values()]
        mean = {key: torch.zeros_like(each.weight) for key, each in self._weights.items()}
        for task in tasks:
            for key, weight in self._effective(task).items():
                mean[key] += weight / len(tasks)
        state = {}
        for key, each in own_state(self.net).items():
            of_tasks = torch.stack([task.state[key].to(each) for task in tasks])  # where ``net`` is now
            state[key] = of_tasks.mean(dim=0) if of_tasks.is_floating_point() else of_tasks[0]
        return self._plain().requires_grad_(False), mean, state

    def _plain(self) -> nn.Module:
        """Return a plain copy of the network, in evaluation mode, whatever its scores are now: they may be NaN."""
        net = copy.deepcopy(self.net)
        net.load_state_dict(self._first, strict=False)
        return unmask_(net).eval()

    @torch.no_grad()
    def _effective(self, task: LearnedTask) -> dict[str, Tensor]:
        """Return the effective weights of a task."""
        return {
            key: each.method.effective_weight(each.weight.detach(), task.multipliers[key].to(each.weight.device))
            for key, each in self._weights.items()
        }

    def _task(self, name: str) -> LearnedTask:
        if name not in self._tasks:
            raise unknown("task", name, self._tasks)
        return self._tasks[name]

    def _put(self, name: str, task: LearnedTask) -> None:
        self._encoded.append(encode(name, task, self.net, self._first))
        self._tasks[name], self._mixture = task, None

    @torch.no_grad()
    def _return_(self) -> None:
        for key, each in (self._own_scores() | own_state(self.net)).items():
            each.copy_(self._first[key])

    def _own_scores(self) -> dict[str, Tensor]:
        return {key: each for key, each in self.net.state_dict(keep_vars=True).items() if key in self._scores}


def _alike(one: Tensor, other: Tensor) -> bool:
    return (one.device, one.dtype) == (other.device, other.dtype)
