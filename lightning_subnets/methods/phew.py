"""PHEW: keep the weights along random walks that prefer large ones."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lightning_subnets.errors import UserError
from lightning_subnets.graph.random_walks import RandomWalks, Visited
from lightning_subnets.graph.unit_graph import Mask
from lightning_subnets.graph.unit_tracing import trace
from lightning_subnets.masking import allocation, maskable
from lightning_subnets.masking.allocation import check_density
from lightning_subnets.masking.method import PruningData
from lightning_subnets.masking.prune_at_init import PruneAtInit, progress

FEWEST, MOST = 1 << 12, 1 << 17  # walks that go together: more and more, as they find less and less
RARE = 100  # of so many weights that walks went along one must be new, or they are given up


class PHEW(PruneAtInit):
    """Paths with higher edge weights: what random walks between inputs and outputs go along, until it is enough.

    Forward:  Q(j, i) = |w_ji| / sum_j |w_ji|, from input units i on;
    backward: Q(i, j) = |w_ji| / sum_i |w_ji|, from output units j on; in turn, each from the next unit, round-robin.

    A unit is a channel or a neuron. In a convolution |w_ji| is the sum over the kernel, and a position in it is drawn
    with probability |w| / |w_ji|, or the whole kernel is kept. Exactly as many weights as the density says are kept
    in the whole network: walks are taken in their order, and the last one up to where the number is reached, so that
    only of this one it may be that weights lie on no path from an input to an output.

    Shortcuts are paths too. The paper does not say how a walk chooses between a block and its shortcut: they have the
    same probability here. The public code never takes an identity shortcut. It takes a convolution shortcut with
    probability 1/2, but its forward walk then skips the layer in front of the block, so no path has both the weights
    before the skip and those after it. The published masks of ResNets come from such walks and differ from the masks
    here. The public code cannot walk through bottlenecks; here walks pass through them, see ``random_walks``.

    Walks never find a weight of 0, and small ones late: when of ``RARE`` weights on their way less than one is new,
    they are given up. On two cores a ResNet-50 is at a density of 0.05 in seconds, at 0.5 in a minute, at 0.8 in five.

    Args:
        density: fraction of all weights kept, in (0, 1].
        whole_kernels: a step through a convolution keeps the whole kernel.

    Raises:
        ValueError: if the density is out of range; when it chooses, if walks do not get there: the message says how far
            they get; if the network's units cannot be followed, see ``unit_tracing.trace``.
    Source: Patil and Dovrolis 2021, "PHEW: Constructing Sparse Networks that Learn Fast and Generalize Well without
        Training Data", section 4.
    """

    requires = "input_shape"

    def __init__(self, density: float, whole_kernels: bool = False) -> None:
        self.density, self.whole_kernels = check_density(density), whole_kernels

    def compute_masks(self, network: nn.Module, scoring: PruningData) -> dict[str, Tensor]:
        assert scoring.input_shape is not None
        weights = {name: layer.weight.detach() for name, layer in maskable.maskable_layers(network).items()}
        graph = trace(network, scoring.input_shape)
        strengths = {
            name: self._strength(weight).float().cpu().reshape(*weight.shape[:2], -1).numpy()
            for name, weight in weights.items()
        }
        walks = RandomWalks(graph, strengths, scoring.seed, whole_kernels=self.whole_kernels)
        sizes = [weight.numel() for weight in weights.values()]
        chosen = torch.split(torch.from_numpy(self._walk(walks, sum(sizes))), sizes)
        return {
            name: mask.view(weight.shape).to(weight.device)
            for (name, weight), mask in zip(weights.items(), chosen, strict=True)
        }

    def _strength(self, weight: Tensor) -> Tensor:
        """What walks prefer weights by."""
        return weight.abs()

    def _walk(self, walks: RandomWalks, total: int) -> Mask:
        wanted = allocation.num_kept(total, self.density)
        if wanted > walks.num_reachable:
            raise self._too_many(walks.num_reachable, total, "no other is on a path of weights other than 0")
        chosen = np.zeros(total, np.bool_)
        kept, done, together = 0, 0, FEWEST
        for percent in progress(range(1, 101), "PHEW"):
            while kept * 100 < wanted * percent:
                visited = walks.visited(done, together)
                new = ~chosen[visited.weights]
                fresh = Visited(visited.weights[new], visited.times[new])
                chosen[fresh.weights] = True
                before, kept = kept, int(np.count_nonzero(chosen))
                if kept > wanted:
                    chosen[fresh.weights] = False
                    chosen[_earliest(fresh, wanted - before)] = True
                    kept = wanted
                elif kept < wanted and together == MOST and RARE * (kept - before) < len(visited.weights):
                    rare = f"less than one in {RARE} weights that its walks go along is a new one by then"
                    raise self._too_many(kept, total, rare)
                done, together = done + together, min(2 * together, MOST)
        return chosen

    def _too_many(self, kept: int, total: int, reason: str) -> UserError:
        reached = math.floor(kept / total * 1000) / 1000
        return UserError(
            f"PHEW(density={self.density}) cannot keep that many weights of this network: its walks get to "
            f"{kept:,} of {total:,}, and {reason}. Take a density up to {reached}, or another method for a larger one"
        )


def _earliest(visited: Visited, count: int) -> NDArray[np.int64]:
    """The first so many different weights by time; of one time, which a whole kernel has, by index."""
    weights = visited.weights[np.lexsort((visited.weights, visited.times))]
    _, first = np.unique(weights, return_index=True)
    return weights[np.sort(first)[:count]]
