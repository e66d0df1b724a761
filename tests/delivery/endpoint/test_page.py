"""The endpoint's page in a real browser."""

import json
import pathlib
import shutil
import subprocess

import pytest

from accordion_jax.delivery import endpoint as page
from accordion_jax.delivery.bundle.reading import read_manifest
from accordion_jax.delivery.bundle.writing import write_bundle
from accordion_jax.delivery.endpoint.application import make_app
from accordion_jax.delivery.endpoint.store import BundleStore
from accordion_jax.delivery.planner import Requirements, plan
from tests.delivery.checks import wait_until
from tests.delivery.forests import write_forest
from tests.delivery.live import request, serving
from tests.delivery.resnets import write_chained
from tests.delivery.toys import make_parts

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --disable-dev-shm-usage"
)

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="Chromium or its chromedriver is not installed"
)


NODE = shutil.which("node")
# The page's script without its start, in a browser that has no elements; what it makes of a file.
PROBE = """
const fs = require("fs");
globalThis.document = { getElementById: () => ({}) };
const script = fs.readFileSync(process.argv[1], "utf8").replace("start().catch(fail);", "");
const { readRungs, blocksOf } = new Function(script + "; return { readRungs, blocksOf };")();
const rungs = readRungs(JSON.parse(fs.readFileSync(process.argv[2])));
console.log(JSON.stringify(rungs.map((rung) => ({ ...rung, shown: blocksOf(rung) }))));
"""


@pytest.mark.skipif(not NODE, reason="Node.js is not installed")
@pytest.mark.parametrize("kind", ["toy", "twins", "bits", "trees"])
def test_reads_a_manifest_as_the_planner_does(tmp_path, kind):
    if kind == "bits":
        bundle = write_chained(tmp_path)[0]
    elif kind == "trees":
        bundle = write_forest(tmp_path, trees=4, group=1, classes=3)[0]
    else:
        parts = make_parts()
        if kind == "twins":
            parts["segments"]["block02"] = parts["segments"]["block01"]
        bundle = write_bundle(tmp_path, **parts)
    manifest = read_manifest(bundle)
    script = pathlib.Path(page.__file__).with_name("page") / "page.js"
    found = subprocess.run(
        [NODE, "-e", PROBE, script, bundle / "manifest.json"], capture_output=True, check=True
    )
    rungs = json.loads(found.stdout)
    assert len(rungs) == len(manifest.ladder)
    for rung, row, each in zip(rungs, manifest.table.rows, manifest.ladder, strict=True):
        bits = manifest.bits(each)
        assert (rung["name"], rung["bytes"], rung["macs"]) == (each.name, row.size_bytes, row.macs)
        assert (rung["blocks"], rung["ofBlocks"]) == (row.depth, len(each.skip_mask))
        assert rung["bits"] == (None if bits is None else list(bits))
        assert rung["error"] == pytest.approx(row.top1_error)
        assert (rung["low"], rung["high"]) == pytest.approx((row.error_low, row.error_high))
    if kind == "bits":
        assert rungs[-1]["shown"] == "3 of 3 blocks, 8 bits a weight"
        assert {rung["shown"] for rung in rungs} >= {"3 of 3 blocks, 4 to 8 bits a weight"}


@pytest.fixture
def browser(tmp_path):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS.split(), f"--user-data-dir={tmp_path}/profile"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # With the driver's path given, selenium looks for none on the network.
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


def text(browser, name):
    return browser.find_element("id", name).text


def fill(browser, name, value):
    """Types a number as a person does, and waits for the answer."""
    field = browser.find_element("id", name)
    field.clear()
    field.send_keys(str(value))
    # Each digit is a question of its own; the last one counts.
    answered = "return document.body.dataset.plan === String(state.asked)"
    wait_until(lambda: browser.execute_script(answered))


@needs_browser
def test_shows_what_the_planner_sends(browser, tmp_path):
    older = write_bundle(tmp_path / "bundles", **make_parts(blocks=5, seed=1))
    bundle = write_bundle(tmp_path / "bundles", **make_parts(), follows=older.name)
    manifest = read_manifest(bundle)
    with serving(make_app(BundleStore(str(bundle.parent)))) as url:
        browser.get(url)
        wait_until(lambda: text(browser, "configuration"))
        assert len(browser.find_elements("css selector", "#chart .point")) == 4
        assert len(browser.find_elements("css selector", "#chart .interval")) == 4

        # A longer deadline sends a deeper configuration, and just the planner's bytes.
        fill(browser, "throughput", 0.01)
        shown = []
        for deadline_ms in (400, 900, 1500):
            fill(browser, "deadline", deadline_ms)
            wanted = plan(manifest, Requirements(deadline_s=deadline_ms / 1000, throughput_bps=1e4))
            assert text(browser, "configuration") == wanted.configuration
            bytes_shown = browser.find_element("id", "bytes").get_attribute("data-value")
            assert int(bytes_shown) == wanted.transfer_bytes
            assert f"{100 * wanted.expected_error:.1f} %" in text(browser, "expected-error")
            assert f"{wanted.transfer_bytes / manifest.size_bytes:.1%}"[:-1] in text(
                browser, "bytes"
            )
            assert not browser.find_element("id", "unmet").is_displayed()
            shown.append(wanted.configuration)
        assert shown == ["toy-0", "toy-1", "toy-3"]
        assert len(browser.find_elements("css selector", "#chart .chosen")) == 1

        # Requirements that conflict: the broken one is named.
        browser.find_element("id", "use-error").click()
        fill(browser, "error", 1)
        wait_until(lambda: "max_error=0.01 is not reached" in text(browser, "unmet"))
        fill(browser, "error", 50)
        wait_until(lambda: text(browser, "configuration") == "toy-1")
        fill(browser, "deadline", 1)
        wait_until(lambda: text(browser, "configuration") == "nothing")
        assert "deadline_s=0.001 is too low" in text(browser, "unmet")

        # What else may bind.
        fill(browser, "deadline", 2000)
        for name, value, reason in (
            ("operations", 0.0001, "max_macs=100 is too low"),
            ("memory", 0.1, "max_memory_bytes=100 is too low"),
        ):
            browser.find_element("id", f"use-{name}").click()
            fill(browser, name, value)
            wait_until(lambda reason=reason: reason in text(browser, "unmet"))
            browser.find_element("id", f"use-{name}").click()
            wait_until(lambda: text(browser, "configuration") == "toy-1")
        fill(browser, "deadline", 1)
        wait_until(lambda: text(browser, "configuration") == "nothing")

        # The slider moves the number, on its logarithmic scale.
        slider = browser.find_element("id", "deadline-slider")
        slider.send_keys("\ue010")  # End
        wait_until(lambda: text(browser, "configuration") == "toy-1")
        assert browser.find_element("id", "deadline").get_attribute("value") == "100000"

        # Another model.
        picker = browser.find_element("id", "model")
        assert picker.is_displayed()
        picker.send_keys("\ue015")  # arrow down
        wait_until(lambda: len(browser.find_elements("css selector", "#chart .point")) == 6)
        assert not [e for e in browser.get_log("browser") if e["level"] == "SEVERE"]
    # The endpoint is gone now.
    browser.find_element("id", "use-error").click()
    wait_until(lambda: "does not answer" in text(browser, "failure"))


@needs_browser
def test_says_what_to_do_without_models(browser, tmp_path):
    (tmp_path / "bundles").mkdir()
    with serving(make_app(BundleStore(str(tmp_path / "bundles")))) as url:
        browser.get(url)
        wait_until(lambda: "python -m accordion_jax.bundle" in text(browser, "failure"))


def test_loads_nothing_from_elsewhere(tmp_path):
    """It works offline: the browser is told so, and the files name no other host."""
    with serving(make_app(BundleStore(str(tmp_path)))) as url:
        for path in ("/", "/page.css", "/page.js"):
            response, data = request(url, path)
            assert response.status == 200
            assert "default-src 'self'" in response.headers["Content-Security-Policy"]
            hosts = data.replace(b"http://www.w3.org/2000/svg", b"")
            assert b"http://" not in hosts
            assert b"https://" not in hosts
