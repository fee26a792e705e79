"""Numbers with a beta distribution, made from uniform ones: the inverse of its cumulative distribution.

Made from one uniform number, a sample has the same noise level in every version of every library.
"""

from __future__ import annotations

from math import exp, lgamma, log, log1p


def quantile(share: float, alpha: float, beta: float) -> float:
    """The number below which a beta distributed one lies with probability `share`, by halving the interval."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if cumulative(middle, alpha, beta) < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def cumulative(x: float, alpha: float, beta: float) -> float:
    """The probability that a beta distributed number is below `x`: the regularised incomplete beta function."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    # The fraction converges fast on this side only; the other side is the rest to one (DLMF 8.17.4).
    if x > (alpha + 1) / (alpha + beta + 2):
        return 1 - cumulative(1 - x, beta, alpha)
    log_front = lgamma(alpha + beta) - lgamma(alpha) - lgamma(beta) + alpha * log(x) + beta * log1p(-x)
    return exp(log_front) / alpha / _fraction(x, alpha, beta)


def _fraction(x: float, alpha: float, beta: float) -> float:
    """The continued fraction 1 + d1/(1 + d2/(1 + ...)) of DLMF 8.17.22, until nothing changes (Lentz's method)."""
    value = above = 1.0
    below = 0.0
    for place in range(1, _TERMS):
        term = _term(place, x, alpha, beta)
        above, below = 1 + term / above, 1 / (1 + term * below)
        value *= above * below
        if abs(above * below - 1) < _EXACT:
            break
    return value


def _term(place: int, x: float, alpha: float, beta: float) -> float:
    m, is_odd = divmod(place, 2)
    if is_odd:
        return -(alpha + m) * (alpha + beta + m) * x / ((alpha + 2 * m) * (alpha + 2 * m + 1))
    return m * (beta - m) * x / ((alpha + 2 * m - 1) * (alpha + 2 * m))


_HALVINGS = 50
_TERMS = 200
"""Half of them are enough for twelve digits with alpha and beta up to 100."""
_EXACT = 1e-14
