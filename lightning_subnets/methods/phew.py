"""PHEW: keep the weights on random walks that prefer large weights."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.graph.random_walks import RandomWalks, Visited
from lightning_subnets.graph.unit_graph import Edges, Mask
from lightning_subnets.graph.unit_tracing import trace
from lightning_subnets.masking import allocation
from lightning_subnets.masking.allocation import check_density
from lightning_subnets.masking.method import PruningData
from lightning_subnets.masking.prune_at_init import PruneAtInit, weights_to_mask
from lightning_subnets.progress_bar import progress

FEWEST, MOST = 1 << 12, 1 << 17  # walks per batch; batches grow while walks find fewer new weights
RARE = 100  # stop if less than one in 100 visited weights is new


class PHEW(PruneAtInit):
    """Paths with higher edge weights: keep the weights on random walks between inputs and outputs.

    Forward:  Q(j, i) = |w_ji| / sum_j |w_ji|, from input units;
    backward: Q(i, j) = |w_ji| / sum_i |w_ji|, from output units. Directions alternate, and start units take turns.

    A unit is a channel or a neuron. For a convolution |w_ji| is the sum over the kernel; a walk then draws a position
    in the kernel with probability |w| / |w_ji|, or keeps the whole kernel. At a shortcut a walk takes block and
    shortcut with the same probability, so masks of ResNets differ from those of the public code, which never takes an
    identity shortcut. Walks take both factors of a product the same way, so they enter attention by values, or by
    queries and keys.

    The number of weights kept is exact: the last walk is cut short, so only weights of that walk may lie on no path
    from an input to an output. Walks never find weights of 0 and find small ones late. For ResNet-50 on two cores a
    density of 0.05 takes seconds, 0.5 a minute, and 0.8 five minutes.

    No path leads through auxiliary classifiers, so they stay dense: set ``keep_dense=["aux*"]`` for GoogLeNet and
    ``keep_dense=["AuxLogits*"]`` for Inception v3.

    Args:
        density: fraction of all weights kept, in (0, 1].
        whole_kernels: whether a step through a convolution keeps the whole kernel.

    Raises:
        ValueError: if the density is out of range; when masks are chosen, if walks do not reach the density (the
            message names the density that they reach), a weight lies on no path, such as that of an auxiliary
            classifier, or ``unit_tracing.trace`` cannot follow the network's units.
    Source: Patil and Dovrolis 2021, "PHEW: Constructing Sparse Networks that Learn Fast and Generalize Well without
        Training Data", section 4.
    """

    requires = "input_shape"

    def __init__(self, density: float, *, whole_kernels: bool = False) -> None:
        self.density, self.whole_kernels = check_density(density), whole_kernels

    def compute_masks(self, network: nn.Module, data: PruningData) -> dict[str, Tensor]:
        assert data.input_shape is not None
        weights = {name: each.detach() for name, each in weights_to_mask(network, data).items()}
        graph = trace(network, data.input_shape, weights)
        names = dict.fromkeys(step.name for step in graph.steps if isinstance(step, Edges))
        if outside := [name for name in weights if name not in names]:
            raise UserError(
                f"{self!r} keeps weights on paths from inputs to outputs, and none leads through {', '.join(outside)}: "
                f"keep_dense={outside}"
            )
        # Walks also pass the weights that stay dense. These come last, so their numbers are larger than all others.
        walked = weights | {name: network.get_parameter(name).detach() for name in names if name not in weights}
        strengths = {
            name: self._strength(weight).float().cpu().reshape(*weight.shape[:2], -1).numpy()
            for name, weight in walked.items()
        }
        walks = RandomWalks(graph, strengths, data.seed, whole_kernels=self.whole_kernels)
        sizes = [weight.numel() for weight in weights.values()]
        reachable = sum(walks.num_reachable[name] for name in weights)
        chosen = torch.split(torch.from_numpy(self._walk(walks, reachable, sum(sizes))), sizes)
        return {
            name: mask.view(weight.shape).to(weight.device)
            for (name, weight), mask in zip(weights.items(), chosen, strict=True)
        }

    def _strength(self, weight: Tensor) -> Tensor:
        return weight.abs()

    def _walk(self, walks: RandomWalks, reachable: int, total: int) -> Mask:
        wanted = allocation.num_kept(total, self.density)
        if wanted > reachable:
            raise self._too_many(reachable, total, "no other weight is on a path of weights other than 0")
        chosen = np.zeros(total, np.bool_)
        kept, done, together = 0, 0, FEWEST
        for percent in progress(range(1, 101), "PHEW"):
            while kept * 100 < wanted * percent:
                visited = walks.visited(done, together)
                visited = Visited(*(each[visited.weights < total] for each in visited))
                new = ~chosen[visited.weights]
                fresh = Visited(visited.weights[new], visited.times[new])
                chosen[fresh.weights] = True
                before, kept = kept, int(np.count_nonzero(chosen))
                if kept > wanted:
                    chosen[fresh.weights] = False
                    chosen[_earliest(fresh, wanted - before)] = True
                    kept = wanted
                elif kept < wanted and together == MOST and RARE * (kept - before) < len(visited.weights):
                    raise self._too_many(kept, total, f"less than one in {RARE} weights that they visit is then new")
                done, together = done + together, min(2 * together, MOST)
        return chosen

    def _too_many(self, kept: int, total: int, reason: str) -> UserError:
        thousandths = range(1000 * kept // total, -1, -1)
        reached = next(each / 1000 for each in thousandths if allocation.num_kept(total, each / 1000) <= kept)
        return UserError(
            f"PHEW(density={self.density}) cannot keep that many weights of this network: its walks reach {kept:,} of "
            f"{total:,}, and {reason}. Take a density up to {reached}, or another method for a larger one"
        )


def _earliest(visited: Visited, count: int) -> NDArray[np.int64]:
    """Return the first ``count`` distinct weights by time, and by index if a whole kernel shares one time."""
    weights = visited.weights[np.lexsort((visited.weights, visited.times))]
    _, first = np.unique(weights, return_index=True)
    return weights[np.sort(first)[:count]]
