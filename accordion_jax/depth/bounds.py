"""Bounds that hold: of error rates, for all rows of a table at once, and of ranks in a sample.

Exact for every number of examples, and with NumPy alone, since a device plans with them too.
"""

import decimal
import math
import statistics

import numpy as np
import numpy.typing as npt

_Z95 = 1.959963984540054  # two-sided 95 % point of the normal distribution
MOST_CONFIDENCE = 1 - 1e-12
_MOST_STEPS = 60
_MOST_TERMS = 1000
_BELOW_ONE = math.nextafter(1.0, 0.0)


def wilson_interval(errors: int, examples: int) -> tuple[float, float]:
    """Returns the 95 % interval of an error rate (Wilson 1927), ends in [0, 1].

    Unlike the normal approximation it stays inside [0, 1] and is sensible at 0 errors.

    Raises:
      ValueError: not 0 <= errors <= examples with examples >= 1.
    """
    if not (examples >= 1 and 0 <= errors <= examples):
        raise ValueError(
            f"errors={errors} of examples={examples}: need 0 <= errors <= examples, examples >= 1"
        )
    rate = errors / examples
    scale = 1 + _Z95**2 / examples
    centre = (rate + _Z95**2 / (2 * examples)) / scale
    half = _Z95 / scale * math.sqrt(rate * (1 - rate) / examples + (_Z95 / (2 * examples)) ** 2)
    # Rounding must not part the interval from the rate it is about: at 0 errors it begins at 0.
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))


def clopper_pearson_upper(
    errors: npt.ArrayLike, examples: npt.ArrayLike, alpha: float
) -> np.ndarray:
    """Returns upper bounds of error rates, each of which fails with probability `alpha` at most.

    The largest p for which so few errors still have a probability of `alpha` (Clopper and Pearson
    1934): P(Binomial(examples, p) <= errors) = alpha. Of all upper bounds that grow with the errors
    and hold for every p, none is smaller anywhere (Buehler 1957), so those of Hoeffding, Bernstein
    and Chernoff are wider. It holds for independent examples, and assumes nothing else.

    Args:
      errors: [rows] wrong answers.
      examples: [rows] answers measured, or one number for all.
      alpha: probability, in (0, 0.5], with which one bound may fail.

    Returns:
      [rows] float64 in (0, 1].

    Raises:
      ValueError: alpha is not in (0, 0.5], or not 0 <= errors <= examples with examples >= 1.
    """
    if not 0 < alpha <= 0.5:
        raise ValueError(f"alpha={alpha} must be above 0 and at most 0.5")
    k, n = np.broadcast_arrays(np.atleast_1d(errors).astype(float), np.asarray(examples, float))
    if not ((n >= 1) & (k >= 0) & (k <= n)).all():
        raise ValueError(f"errors={k} of examples={n}: need 0 <= errors <= examples, examples >= 1")
    upper = np.ones(k.shape)
    (open_,) = np.nonzero(k < n)  # where every answer is wrong the bound is 1
    k, n = k[open_], n[open_]
    log_alpha, p = math.log(alpha), _wilson_upper(k + 0.5, n + 1, alpha)
    log_choose = _log_choose(n, k)
    for _ in range(_MOST_STEPS):
        log_tail, slope = _log_lower_tail(k, n, p, log_choose)
        # The tail's logarithm is concave in p, so from the first step on Newton's method comes from
        # above: whenever it stops, what it has is a bound.
        step = (log_tail - log_alpha) / slope
        moved = np.where(p + step < 1, p + step, np.minimum((p + 1) / 2, _BELOW_ONE))
        done = np.abs(moved - p) <= 1e-10 * p
        p = moved
        if done.all():
            break
    upper[open_] = np.where(p < _BELOW_ONE, p, 1.0)
    return upper


def _log_lower_tail(
    k: np.ndarray, n: np.ndarray, p: np.ndarray, log_choose: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Log of P(Binomial(n, p) <= k) for p > k/n, and the negative of its derivative.

    By the continued fraction of the incomplete beta function I_{1-p}(n - k, k + 1), evaluated as
    Lentz does (Press et al., Numerical Recipes, section 6.4).
    """
    a, b, x = n - k, k + 1, 1 - p
    c = np.ones_like(a)
    d = 1 / (1 - (a + b) * x / (a + 1))
    fraction = d
    for m in range(1, _MOST_TERMS):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + term * d)
            c = 1 + term / c
            fraction = fraction * (d * c)
        if (np.abs(d * c - 1) < 1e-13).all():
            break
    log_tail = log_choose + a * np.log(x) + b * np.log(p) + np.log(fraction)
    # The density is (n - k) choose(n, k) p^k x^(n - k - 1): of the tail's product all but p x / a.
    return log_tail, a / (x * p * fraction)


def _wilson_upper(k: np.ndarray, n: np.ndarray, alpha: float) -> np.ndarray:
    """Approximate upper bounds (Wilson 1927), to start from."""
    z = statistics.NormalDist().inv_cdf(1 - alpha) if alpha > 1e-15 else 8.0
    spread = z * np.sqrt(k * (1 - k / n) + z * z / 4)
    return (k + z * z / 2 + spread) / (n + z * z)


def _log_choose(n: np.ndarray, k: np.ndarray) -> np.ndarray:
    return np.array(
        [
            math.lgamma(m + 1) - math.lgamma(j + 1) - math.lgamma(m - j + 1)
            for m, j in zip(n.tolist(), k.tolist(), strict=True)
        ]
    )


def risk_of(confidence: float) -> float:
    """Returns 1 - confidence, rounded down to two significant digits: at most so much may fail.

    Rounded, so that whoever asks for ever other confidences asks for few different bands.

    Raises:
      ValueError: the confidence is not in [0.5, 1 - 1e-12]; says what is meant by it.
    """
    if not (0.5 <= confidence <= MOST_CONFIDENCE):
        raise ValueError(
            f"confidence={confidence} must be a probability of at least 0.5 and under 1, such as "
            "0.95 (no percentage)"
        )
    exact = 1 - decimal.Decimal(repr(float(confidence)))
    unit = decimal.Decimal(1).scaleb(exact.adjusted() - 1)
    return float(exact.quantize(unit, rounding=decimal.ROUND_DOWN))


def upper_band(errors: npt.ArrayLike, examples: npt.ArrayLike, risk: float) -> np.ndarray:
    """Returns upper bounds of error rates that hold all at once, but with probability `risk`.

    Clopper and Pearson's at `risk` / rows (Bonferroni). The rows are measured on the same images
    and depend on each other in a way that nobody knows, and Bonferroni holds for any. It costs the
    square root of a logarithm: ten rows take 2.6 standard deviations at 0.05, two hundred 3.5, one
    1.6. The band of Dvoretzky, Kiefer and Wolfowitz is about one distribution function, which the
    errors of a ladder are not: an image may be right at one depth and wrong at a larger one.

    Args:
      errors: [rows] wrong answers.
      examples: [rows] or one number.
      risk: probability in (0, 1) with which some bound may fail.
    """
    return clopper_pearson_upper(errors, examples, risk / np.size(errors))


def prediction_rank(count: int, risk: float) -> int:
    """Returns which order statistic of `count` values the next one reaches but with `risk`.

    The r-th smallest of n exchangeable values is above the next one with probability r / (n + 1) at
    most, whatever their distribution (Wilks 1941; of ties likewise).

    Returns:
      r, the largest for which r / (n + 1) <= risk; 0 where there are too few values.
    """
    # A hair more, so that 0.1 of 19 values is 2.
    return min(int((count + 1) * risk * (1 + 1e-12)), count)


def tolerance_rank(count: int, content: float, risk: float) -> int:
    """Returns which order statistic a share `content` of the distribution reaches, but with `risk`.

    The r-th smallest of n independent values has at least that share at or above it unless fewer
    than r of them fell among the smallest 1 - content: r is the largest with
    P(Binomial(n, 1 - content) <= r - 1) <= risk (Wilks 1941).

    Returns:
      r; 0 where there are too few values: content 0.9 takes 29 of them at risk 0.05.
    """
    tail, rank = 0.0, 0
    for successes in range(count):
        tail += math.exp(
            math.lgamma(count + 1)
            - math.lgamma(successes + 1)
            - math.lgamma(count - successes + 1)
            + successes * math.log1p(-content)
            + (count - successes) * math.log(content)
        )
        if tail > risk * (1 + 1e-9):  # a hair more, for rounding
            break
        rank = successes + 1
    return rank
