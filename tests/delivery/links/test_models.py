"""Named models of links against closed forms, numerical integration and simulation."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from accordion_jax.delivery.links.models import parse_model

RATES = np.array([1e5, 1e6, 5e6, 2e7, 4e7])
WINDOW_S = 0.25


def exceeds(model):
    """[rates] probabilities, asked for in bytes within a window."""
    return parse_model(model).arrival(RATES * WINDOW_S / 8, WINDOW_S)


def test_a_constant_link_carries_what_it_carries():
    link = parse_model("constant:rate_bps=8e6")
    np.testing.assert_array_equal(link.arrival([0, 1e5, 1e5 + 1], 0.1), [1, 1, 0])
    np.testing.assert_array_equal(link.arrival([0, 1], 0.0), [1, 0])
    np.testing.assert_array_equal(link.arrival([0, 1], -1.0), [1, 0])


def test_log_normal_rates():
    expected = scipy.stats.lognorm(0.8, scale=3e6).sf(RATES)
    np.testing.assert_allclose(exceeds("lognormal:median_bps=3e6,sigma=0.8"), expected, rtol=1e-9)


def test_rayleigh_faded_capacity_by_integration_over_the_power():
    bandwidth, snr = 5e6, 10.0

    def probability(rate):
        threshold = 2 ** (rate / bandwidth) - 1
        return scipy.integrate.quad(lambda x: math.exp(-x / snr) / snr, threshold, np.inf)[0]

    found = exceeds("rayleigh:bandwidth_hz=5e6,snr_db=10")
    np.testing.assert_allclose(found, [probability(rate) for rate in RATES], rtol=1e-6, atol=1e-12)
    # The mean of the capacity is the integral of what exceeds each rate.
    mean = scipy.integrate.quad(
        parse_model("rayleigh:bandwidth_hz=5e6,snr_db=10").exceeds, 1e-3, 2e8, limit=200
    )[0]
    ergodic = scipy.integrate.quad(
        lambda x: bandwidth * math.log2(1 + snr * x) * math.exp(-x), 0, np.inf
    )[0]
    assert mean == pytest.approx(ergodic, rel=1e-5)


@pytest.mark.parametrize("k_db", [-20, 0, 6, 15])
def test_rician_faded_capacity_is_a_noncentral_chi_square(k_db):
    factor, snr = 10 ** (k_db / 10), 10.0
    power = 2 * (1 + factor) * (2 ** (RATES / 5e6) - 1) / snr
    expected = scipy.stats.ncx2(2, 2 * factor).sf(power)
    found = exceeds(f"rician:bandwidth_hz=5e6,snr_db=10,k_db={k_db}")
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("k_db", [55, 61, 75, 100])
def test_with_next_to_no_fading_rician_is_shannon_capacity_with_a_narrow_normal(k_db):
    # Rates about the capacity, in standard deviations of the amplitude.
    factor, snr, z = 10 ** (k_db / 10), 10.0, np.array([-6.0, -2.0, -0.5, 0.0, 1.0, 3.0])
    power = (math.sqrt(2 * factor) + z) ** 2
    rates = 5e6 * np.log2(1 + snr * power / 2 / (1 + factor))
    model = parse_model(f"rician:bandwidth_hz=5e6,snr_db=10,k_db={k_db}")
    found = [model.exceeds(rate) for rate in rates.tolist()]
    np.testing.assert_allclose(found, scipy.stats.norm.sf(z), atol=0.5 / math.sqrt(factor))
    if k_db < 65:  # beyond it the reference itself is not exact
        expected = scipy.stats.ncx2(2, 2 * factor).sf(power)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_without_a_direct_path_rician_is_rayleigh():
    rician = exceeds("rician:bandwidth_hz=5e6,snr_db=10,k_db=-100")
    np.testing.assert_allclose(rician, exceeds("rayleigh:bandwidth_hz=5e6,snr_db=10"), rtol=1e-6)


ON_OFF = "onoff:rate_bps=8e6,on_s=0.5,off_s=0.3"


def test_on_and_off_by_its_stationary_law():
    link = parse_model(ON_OFF)
    is_on, window = 0.5 / 0.8, 1.0
    # Something arrives unless it is off all the time; all of it if it is on all the time.
    assert link.arrival([1e-6], window)[0] == pytest.approx(
        1 - (1 - is_on) * math.exp(-window / 0.3), rel=1e-6
    )
    assert link.arrival([1e6], window)[0] == pytest.approx(is_on * math.exp(-window / 0.5))
    np.testing.assert_array_equal(link.arrival([0, 1e6 + 1], window), [1, 0])
    # Its mean is the rate times the share of the time that it is on.
    mean = scipy.integrate.quad(lambda size: link.arrival([size], window)[0], 0, 1e6)[0]
    assert mean == pytest.approx(1e6 * is_on, rel=1e-6)


def test_on_and_off_against_simulation():
    rng = np.random.default_rng(0)
    count, window = 40_000, 0.7
    on, carried = rng.random(count) < 0.5 / 0.8, np.zeros(count)
    left = np.full(count, window)
    while (left > 0).any():
        stay = np.minimum(rng.exponential(np.where(on, 0.5, 0.3)), left)
        carried, left, on = carried + stay * on, left - stay, ~on
    sizes = np.array([0.05, 0.2, 0.4, 0.6]) * 1e6
    simulated = (8 * sizes[:, None] <= carried * 8e6).mean(1)
    np.testing.assert_allclose(parse_model(ON_OFF).arrival(sizes, window), simulated, atol=0.01)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gilbert", "'gilbert' is not known; choose one of .*'onoff'"),
        ("constant", "takes rate_bps=NUMBER"),
        ("rayleigh:bandwidth_hz=1e6", r"has the parameters \['bandwidth_hz'\]; rayleigh takes"),
        ("constant:rate_bps=fast", "'rate_bps=fast' is not parameter=number"),
        ("constant:rate_bps=-1", "rate_bps=-1 must be finite and above 0"),
        ("constant:rate_bps=nan", "rate_bps=nan must be finite"),
        ("rayleigh:bandwidth_hz=1e6,snr_db=1000", "snr_db=1000 dB must be -100 to 100"),
    ],
)
def test_what_is_no_model_is_told_in_words(text, message):
    with pytest.raises(ValueError, match=message):
        parse_model(text)


def test_a_link_that_flickers_is_refused_rather_than_summed_for_ever():
    with pytest.raises(ValueError, match=r"times within a deadline.*use constant:rate_bps=500000$"):
        parse_model("onoff:rate_bps=1e6,on_s=1e-9,off_s=1e-9").arrival([1000], 1.0)
