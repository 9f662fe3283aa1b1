"""Draw weights, biases and scores from a seed: the same bits on every device, processor and library version.

The numbers of a weight come from a counter-based generator (Philox 4x64, Salmon et al. 2011) keyed by the seed and the
weight's name, so they do not depend on the order of construction or on any other draw. NumPy guarantees Philox's raw
stream. This file computes only with operations that IEEE 754 rounds exactly (+ - * / sqrt, one at a time), because the
last digits of mathematical libraries differ between systems. Any change here changes the networks of all seeds.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lightning_subnets.errors import unknown

Float64 = npt.NDArray[np.float64]
UInt64 = npt.NDArray[np.uint64]

_CHUNK = 1 << 20  # numbers drawn at a time, to bound the memory that float64 needs for a large layer


def draw_weights(distribution: str, shape: torch.Size, *, seed: int, stream: str, density: float = 1.0) -> Tensor:
    """Draw a layer's weights, float32 on the CPU.

    - ``kaiming_normal``: N(0, 2 / fan_in)
    - ``signed_constant``: +-sqrt(2 / fan_in)
    - ``kaiming_uniform``: U(-b, b), b = sqrt(6 / fan_in)
    - ``xavier_normal``: N(0, 2 / (fan_in + fan_out))
    - ``xavier_signed_constant``: +-sqrt(2 / (fan_in + fan_out))
    - ``scaled_...``: each of these times sqrt(1 / density), which restores the variance of the layer's outputs.

    Args:
        distribution: a name from ``DISTRIBUTIONS``; a ``UserError`` lists them if it is unknown.
        shape: of the weight, see ``fans``.
        seed: any integer.
        stream: of random bits, see ``stream_of``.
        density: fraction kept; only the scaled distributions use it.
    Source: Ramanujan et al. 2020, sections 4.1 and 4.5; Kaiming: He et al. 2015; Xavier: Glorot and Bengio 2010.
    """
    if distribution not in DISTRIBUTIONS:
        raise unknown("weight distribution", distribution, DISTRIBUTIONS)
    draw, scale_of = _DISTRIBUTIONS[distribution.removeprefix("scaled_")]
    scale = scale_of(*fans(shape)) * (math.sqrt(1.0 / density) if distribution.startswith("scaled_") else 1.0)
    return _fill(draw, scale, shape, seed, stream, "weight")


def draw_scores(shape: torch.Size, *, seed: int, stream: str, spread: float = 1.0) -> Tensor:
    """Draw a layer's first scores: U(-b, b), b = sqrt(spread / fan_in), float32 on the CPU.

    Args:
        shape: of the weight, (out, in, *kernel), so fan_in = in * the size of the kernel.
        seed: that ``Method.initial_scores`` gets.
        stream: of random bits, that ``Method.initial_scores`` gets: the name of the layer. Another gives other scores.
        spread: 1 is ``kaiming_uniform_(a=sqrt(5))``, as in the public code of Ramanujan et al. 2020, and 6 is
            ``kaiming_uniform_(a=0)``, as in the public code of Chijiwa et al. 2021.
    """
    return _fill(_uniform, math.sqrt(spread / fans(shape)[0]), shape, seed, stream, "scores")


def draw_biases(shape: torch.Size, *, fan_in: int, seed: int, stream: str) -> Tensor:
    """Draw the first biases of a layer: U(-b, b), b = sqrt(1 / fan_in), as torch; float32 on the CPU.

    Only methods that train weights start from them.
    """
    return _fill(_uniform, math.sqrt(1.0 / fan_in), shape, seed, stream, "bias")


def draw_table(shape: torch.Size, *, seed: int, stream: str) -> Tensor:
    """Draw a token or a table, such as a position embedding: N(0, 0.02^2), float32 on the CPU."""
    return _fill(_normal, 0.02, shape, seed, stream, "table")


def draw_chances(shape: torch.Size, *, seed: int, stream: str) -> Tensor:
    """Draw U(0, 1), float32 on the CPU, to choose at random among a layer's weights."""
    return _fill(unit_interval, 1.0, shape, seed, stream, "chances")


def stream_of(name: str) -> str:
    """Return the stream of random bits of a parameter: the name of its layer for ``weight``, else its own name.

    The prefixes of torch.compile and of wrappers, ``_orig_mod`` and a leading ``module``, make no difference.
    """
    plain = name.replace("_orig_mod.", "").removeprefix("module.")
    owner, _, key = plain.rpartition(".")
    return owner if key == "weight" else plain


def fans(shape: torch.Size) -> tuple[int, int]:
    """Return (fan_in, fan_out), as ``torch.nn.init`` counts them, of (out, in, *kernel)."""
    kernel = math.prod(shape[2:])
    return shape[1] * kernel, shape[0] * kernel


def philox(seed: int, stream: str, kind: str, *, counter: int = 0) -> np.random.Philox:
    """Return the generator of the random bits of this seed, stream and kind; it gives four numbers for each counter."""
    key = hashlib.sha256(f"{int(operator.index(seed))}:{stream}:{kind}".encode()).digest()[:16]
    return np.random.Philox(key=int.from_bytes(key, "little"), counter=counter)


def _fill(
    draw: Callable[[UInt64], Float64], scale: float, shape: torch.Size, seed: int, stream: str, kind: str
) -> Tensor:
    """Return scale * draw(.) for each element, from the random bits of this seed, stream and kind."""
    generator = philox(seed, stream, kind)
    result = torch.empty(shape, dtype=torch.float32, device="cpu")
    flat = result.view(-1).numpy()
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        chunk[:] = scale * draw(generator.random_raw(chunk.size))
    return result


def _signs(raw: UInt64) -> Float64:
    return 1.0 - 2.0 * (raw >> np.uint64(63)).astype(np.float64)


def unit_interval(raw: UInt64) -> Float64:
    """Return U(0, 1): the midpoints of 2^52 equal cells, each exact in float64."""
    return ((raw >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _uniform(raw: UInt64) -> Float64:
    """Return U(-1, 1), symmetric about 0 and never 0."""
    return 2.0 * unit_interval(raw) - 1.0


def _normal(raw: UInt64) -> Float64:
    return _inverse_normal_cdf(unit_interval(raw))


# Each distribution: a draw of unit scale, and the scale as a function of fan_in and fan_out.
_DISTRIBUTIONS: dict[str, tuple[Callable[[UInt64], Float64], Callable[[int, int], float]]] = {
    "kaiming_normal": (_normal, lambda fan_in, _: math.sqrt(2.0 / fan_in)),
    "signed_constant": (_signs, lambda fan_in, _: math.sqrt(2.0 / fan_in)),
    "kaiming_uniform": (_uniform, lambda fan_in, _: math.sqrt(6.0 / fan_in)),
    "xavier_normal": (_normal, lambda fan_in, fan_out: math.sqrt(2.0 / (fan_in + fan_out))),
    "xavier_signed_constant": (_signs, lambda fan_in, fan_out: math.sqrt(2.0 / (fan_in + fan_out))),
}
DISTRIBUTIONS = (*_DISTRIBUTIONS, *(f"scaled_{name}" for name in _DISTRIBUTIONS))


# Wichura (1988), "Algorithm AS 241: The percentage points of the normal distribution", Applied Statistics 37(3),
# 477-484: numerators and denominators of PPND16, highest power first. Relative accuracy about 1e-16.
# fmt: off
_CENTRE = (
    (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4,
     1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.3871328727963666080e0),
    (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4, 2.1213794301586595867e4,
     5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1, 1.0),
)
_SHOULDER = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1, 1.27045825245236838258e0,
     3.64784832476320460504e0, 5.76949722146069140550e0, 4.63033784615654529590e0, 1.42343711074968357734e0),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2, 1.48103976427480074590e-1,
     6.89767334985100004550e-1, 1.67638483018380384940e0, 2.05319162663775882187e0, 1.0),
)
_TAIL = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3, 2.65321895265761230930e-2,
     2.96560571828504891230e-1, 1.78482653991729133580e0, 5.46378491116411436990e0, 6.65790464350110377720e0),
    (2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5, 7.86869131145613259100e-4,
     1.48753612908506148525e-2, 1.36929880922735805310e-1, 5.99832206555887937690e-1, 1.0),
)
# fmt: on


def _inverse_normal_cdf(probability: Float64) -> Float64:
    """Return the x with P(X <= x) = probability for a standard normal X. Source: AS 241."""
    centred = probability - 0.5
    result = centred * _rational(_CENTRE, 0.180625 - centred * centred)
    outer = np.flatnonzero(np.abs(centred) > 0.425)
    tail = np.minimum(probability[outer], 1.0 - probability[outer])
    r = np.sqrt(-_log(tail))
    magnitude = np.where(r <= 5.0, _rational(_SHOULDER, r - 1.6), _rational(_TAIL, r - 5.0))
    result[outer] = np.where(centred[outer] < 0.0, -magnitude, magnitude)
    return result


def _rational(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Float64) -> Float64:
    return _polynomial(coefficients[0], x) / _polynomial(coefficients[1], x)


def _polynomial(coefficients: tuple[float, ...], x: Float64) -> Float64:
    """Evaluate by Horner's rule; each product and each sum is rounded on its own, never as a fused multiply-add."""
    result = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        result *= x
        result += coefficient
    return result


def _log(x: Float64) -> Float64:
    """Return the natural logarithm: x = m 2^e, log x = e log 2 + 2 artanh((m - 1) / (m + 1)).

    With m in [sqrt(1/2), sqrt(2)) the argument s of artanh is below 0.172, and the series stops at s^23, at 1e-18.
    """
    mantissa, exponent = np.frexp(x)
    low = mantissa < math.sqrt(0.5)
    mantissa = np.where(low, 2.0 * mantissa, mantissa)
    exponent = exponent - low
    s = (mantissa - 1.0) / (mantissa + 1.0)
    series = _polynomial(tuple(1.0 / odd for odd in range(23, 0, -2)), s * s)
    return exponent * 0.6931471805599453 + 2.0 * s * series
