"""Named models of a link: how likely it carries so many bytes in so much time, in closed form.

A model is written ``rayleigh:bandwidth_hz=5e6,snr_db=10``. Rate models draw one rate a request and
keep it (block fading: the channel changes more slowly than a deadline passes). Each has the method
`arrival` of `link.Link`, so that whoever asks does not care which it has.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_MOST_CHANGES = 1e6  # mean of a Poisson variable, beyond which its law is not summed


@dataclasses.dataclass(frozen=True)
class RateModel:
    """A link whose rate is drawn once a request.

    Attributes:
      name: as it was written.
      exceeds: from a rate in bits a second, above 0, to the probability of at least that.
    """

    name: str
    exceeds: Callable[[float], float]

    def arrival(self, sizes_bytes: npt.ArrayLike, window_s: float) -> np.ndarray:
        """Returns [sizes] probabilities that so many bytes are carried in a time."""
        sizes = np.atleast_1d(sizes_bytes).astype(float)
        if window_s <= 0:
            return (sizes <= 0).astype(float)
        rates_bps = (8 * sizes / window_s).tolist()
        return np.array([self.exceeds(rate) if rate > 0 else 1.0 for rate in rates_bps])


@dataclasses.dataclass(frozen=True)
class OnOff:
    """A link that is on and off by turns: a Markov chain in continuous time, at its stationary law.

    Attributes:
      name: as it was written.
      rate_bps: while it is on.
      on_s: mean time that it stays on.
      off_s: mean time that it stays off.
    """

    name: str
    rate_bps: float
    on_s: float
    off_s: float

    def arrival(self, sizes_bytes: npt.ArrayLike, window_s: float) -> np.ndarray:
        """Returns [sizes] probabilities that so many bytes are carried in a time.

        It must be on for x seconds of the t. Let A be the times that it goes off in x seconds of
        being on, Poisson with mean x / on_s, and B those that it comes back in t - x seconds of
        being off, Poisson with mean (t - x) / off_s. The A periods off end in time if B >= A; where
        it is off at first there is one more, and B > A.
        """
        is_on = self.on_s / (self.on_s + self.off_s)
        found = []
        for size in np.atleast_1d(sizes_bytes).astype(float).tolist():
            needed_s = 8 * size / self.rate_bps
            if size <= 0:
                found.append(1.0)
            elif needed_s > window_s:
                found.append(0.0)
            else:
                off, back = needed_s / self.on_s, (window_s - needed_s) / self.off_s
                if max(off, back) > _MOST_CHANGES:
                    raise ValueError(
                        f"link model {self.name!r} goes on and off {max(off, back):.3g} times "
                        "within a deadline, so that it carries its mean rate all the time; use "
                        f"constant:rate_bps={self.rate_bps * is_on:.6g}"
                    )
                at_most = _poisson_at_most(off, back)
                found.append(is_on * at_most[0] + (1 - is_on) * at_most[1])
        return np.array(found)


def _poisson_at_most(mean_a: float, mean_b: float) -> tuple[float, float]:
    """(P(A <= B), P(A < B)) of independent Poisson variables."""
    top = int(max(mean_a, mean_b) + 12 * math.sqrt(max(mean_a, mean_b)) + 40)
    counts = np.arange(top + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(counts[1:]))])

    def masses(mean: float) -> np.ndarray:
        if mean == 0:
            return (counts == 0).astype(float)
        return np.exp(counts * math.log(mean) - mean - log_factorial)

    a, b = masses(mean_a), masses(mean_b)
    below = np.cumsum(a)
    at_most = float(np.dot(b, below))
    return min(at_most, 1.0), min(max(at_most - float(np.dot(a, b)), 0.0), 1.0)


def constant(rate_bps: float) -> Callable[[float], float]:
    """Always the same rate, in bits a second."""
    return lambda rate: float(rate <= rate_bps * (1 + 1e-12))


def lognormal(median_bps: float, sigma: float) -> Callable[[float], float]:
    """The natural logarithm of the rate is normal; `sigma` is its standard deviation."""
    scale = sigma * math.sqrt(2)
    return lambda rate: 0.5 * math.erfc(math.log(rate / median_bps) / scale)


def _shannon_snr(rate_bps: float, bandwidth_hz: float) -> float:
    """The signal-to-noise ratio that a rate takes: 2^(rate / bandwidth) - 1."""
    return math.expm1(min(rate_bps / bandwidth_hz * math.log(2), 700.0))


def rayleigh(bandwidth_hz: float, snr_db: float) -> Callable[[float], float]:
    """Shannon's capacity under Rayleigh fading of a mean SNR: its power is exponential."""
    mean = 10 ** (snr_db / 10)
    return lambda rate: math.exp(-_shannon_snr(rate, bandwidth_hz) / mean)


def rician(bandwidth_hz: float, snr_db: float, k_db: float) -> Callable[[float], float]:
    """The same under Rician fading: `k_db` is the power of the direct path over that of the rest.

    The power beyond y has probability Q1(sqrt(2 K), sqrt(2 (1 + K) y / mean)), Marcum's function,
    which is P(B <= A) of Poisson variables of means K and (1 + K) y / mean. With next to no fading,
    K above a million or so, the amplitude is normal: Q1(a, b) is Q(b - a - 1 / (2 a)), to 1 / a^2.
    """
    mean, factor = 10 ** (snr_db / 10), 10 ** (k_db / 10)

    def exceeds(rate: float) -> float:
        power = (1 + factor) * _shannon_snr(rate, bandwidth_hz) / mean
        if power >= 100 * (1 + factor) + 1e4:
            return 0.0  # Nothing is left there, and the sum would be long.
        if max(power, factor) > _MOST_CHANGES:
            a, b = math.sqrt(2 * factor), math.sqrt(2 * power)
            return 0.5 * math.erfc((b - a - 0.5 / a) / math.sqrt(2))
        return _poisson_at_most(power, factor)[0]

    return exceeds


# Name -> function of its parameters. A new model of a rate is one function and one entry.
RATE_MODELS: Mapping[str, Callable[..., Callable[[float], float]]] = {
    "constant": constant,
    "lognormal": lognormal,
    "rayleigh": rayleigh,
    "rician": rician,
}
_ANY_SIGN = {"snr_db", "k_db"}


def parse_model(text: str) -> RateModel | OnOff:
    """Returns the model of ``name:parameter=number,...``.

    Raises:
      ValueError: the name or a parameter is unknown or missing, or a number is none or not
        positive; names it, and what is wanted.
    """
    name, _, rest = text.partition(":")
    functions: dict[str, Callable[..., Any]] = {**RATE_MODELS, "onoff": OnOff}
    if name not in functions:
        raise ValueError(f"link model {name!r} is not known; choose one of {sorted(functions)}")
    wanted = [each for each in inspect.signature(functions[name]).parameters if each != "name"]
    given: dict[str, float] = {}
    for part in filter(None, rest.split(",")):
        key, _, value = part.partition("=")
        try:
            given[key.strip()] = float(value)
        except ValueError:
            raise ValueError(f"link model {text!r}: {part!r} is not parameter=number") from None
    if sorted(given) != sorted(wanted):
        raise ValueError(
            f"link model {text!r} has the parameters {sorted(given)}; {name} takes "
            f"{','.join(f'{each}=NUMBER' for each in wanted)}"
        )
    for key, number in given.items():
        if (
            not math.isfinite(number)
            or abs(number) > 1e15
            or (number <= 0 and key not in _ANY_SIGN)
        ):
            wants = "finite" if key in _ANY_SIGN else "finite and above 0"
            raise ValueError(f"link model {text!r}: {key}={number:g} must be {wants}")
        if key in _ANY_SIGN and abs(number) > 100:
            raise ValueError(f"link model {text!r}: {key}={number:g} dB must be -100 to 100")
    if name == "onoff":
        return OnOff(text, **given)
    return RateModel(text, RATE_MODELS[name](**given))
