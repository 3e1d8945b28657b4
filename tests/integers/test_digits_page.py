"""The network of docs/web/digits.html as WebAssembly, against ``replay``."""

import base64
import gzip
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import integer_networks as reference
import numpy as np
import pytest
from conftest import ROOT

from spikegrad import Network
from spikegrad.integers import load, replay

WEB = ROOT / "docs" / "web"
PAGE = WEB / "digits.html"
BROWSERS = "chromium", "chromium-browser", "google-chrome", "chrome"
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
STEPS = 20

# What the page shows after it has drawn a frame.
SHOWN = """(async () => {
  await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
  const figure = document.querySelector(".digits"), { pixels, outputs } = figure.last;
  return { pixels: [...pixels], outputs: outputs.map(step => [...step]),
    answer: figure.querySelector("output").textContent,
    marks: figure.querySelector(".spikes").getAttribute("d").split("M").length - 1 };
})()"""

# The outputs for all examples.
EXAMPLES = """(async () => {
  const images = atob("IMAGES");
  let figure = null;
  while (!(figure = document.querySelector(".digits"))?.run)
    await new Promise(done => setTimeout(done, 10));
  return Array.from({ length: 10 }, (_, digit) => figure.run(
    Uint8Array.from({ length: 784 }, (_, i) => images.charCodeAt(784 * digit + i)))
    .map(step => [...step]));
})()"""

# Runs the module alone: inputs of all steps from a file, outputs to the standard output.
NODE = """
const { readFileSync } = require("fs");
const [module, inputs] = process.argv.slice(1).map(path => readFileSync(path));
WebAssembly.instantiate(module).then(({ instance: { exports: program } }) => {
  const steps = JSON.parse(inputs);
  program.start();
  console.log(JSON.stringify(steps.map(row => {
    new Int32Array(program.memory.buffer, program.inputs(), row.length).set(row);
    program.step();
    return [...new Int32Array(program.memory.buffer, program.outputs(), OUTPUTS)];
  })));
});"""


def constant(name: str) -> bytes:
    """The bytes of a constant of the page."""
    return base64.b64decode(re.search(name + r'\(?bytesOf\("([^"]+)"', PAGE.read_text())[1])


def thresholds() -> np.ndarray:
    """Xorshift numbers (Marsaglia 2003) with shifts of 13, 17 and 5 in 32 bits."""
    x, numbers = np.array([1], np.uint32), []
    for _ in range(STEPS * 784):
        for shift in (np.left_shift, 13), (np.right_shift, 17), (np.left_shift, 5):
            x = x ^ shift[0](x, np.uint32(shift[1]))
        numbers.append(int(x[0]) % 255)
    return np.reshape(numbers, (STEPS, 1, 784))


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Network:
    path = tmp_path_factory.mktemp("digits") / "digits.json"
    path.write_bytes(gzip.decompress((WEB / "digits.json.gz").read_bytes()))
    network = load(path)
    return Network(network.layers, network.inputs, [*network.layers])


def expected(network: Network, pixels: np.ndarray) -> np.ndarray:
    """Spikes and potentials as integers, ``(steps, images, outputs)``."""
    _, outputs = replay(network, (pixels > thresholds()).astype(int))
    spikes, potentials = outputs.values()
    unit = network.layers[network.outputs[-1]].cell.unit
    return np.concatenate([spikes, np.rint(potentials * unit).astype(int)], -1)


@pytest.fixture(scope="module")
def examples() -> np.ndarray:
    return np.frombuffer(constant("EXAMPLES = "), np.uint8).reshape(10, 784)


def test_page_is_small_and_complete():
    page = PAGE.read_text()
    assert len(page) < 300_000
    # Nothing comes from a server or another file.
    links = re.findall(r'(?:src|href)="([^"]{0,40})', page)
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert not re.search(r"https?:|fetch\(|import\(|@import|url\(", page)


def test_network_of_the_page_reads_its_examples(network, examples):
    potentials = expected(network, examples)[..., -10:]
    np.testing.assert_array_equal(potentials.sum(0).argmax(-1), np.arange(10))


@pytest.mark.skipif(not shutil.which("node"), reason="needs Node.js")
def test_module_of_the_page_equals_replay(network, examples, tmp_path):
    wanted, inputs = expected(network, examples)[:, 4], (examples[4] > thresholds())[:, 0]
    (tmp_path / "module").write_bytes(constant("instantiate"))
    (tmp_path / "inputs").write_text(json.dumps(inputs.astype(int).tolist()))
    script = NODE.replace("OUTPUTS", str(wanted.shape[1]))
    run = ["node", "-e", script, tmp_path / "module", tmp_path / "inputs"]
    found = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    np.testing.assert_array_equal(json.loads(found), wanted)


@pytest.mark.skipif(not shutil.which("cc"), reason="needs a C compiler")
def test_program_of_the_page_equals_replay(network, examples, tmp_path):
    inputs = (examples[:2] > thresholds()).astype(int)
    outputs = {"all": expected(network, examples[:2])}
    reference.check_c(network, inputs, outputs, tmp_path)


class Browser:
    """A Chromium with one page, by the DevTools protocol over pipes: messages that end in a 0."""

    def __init__(self, page: str, folder: Path) -> None:
        (read, self.to), (self.of, write) = os.pipe(), os.pipe()
        flags = "--headless --no-sandbox --disable-gpu --remote-debugging-pipe about:blank"
        command = f'exec "$0" --user-data-dir="$1" {flags} 3<&{read} 4>&{write}'
        self.process = subprocess.Popen(
            ["bash", "-c", command, BROWSER, folder / "profile"],
            pass_fds=(read, write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read)
        os.close(write)
        self.answers, self.count, self.session = os.fdopen(self.of, "rb"), 0, {}
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self.session = {"sessionId": attached["sessionId"]}
        self.call("Page.navigate", url=page)

    def call(self, method: str, **parameters: Any) -> Any:
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters, **self.session}
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            data = b""
            while not data.endswith(b"\0"):
                byte = self.answers.read(1)
                assert byte, "the browser has ended"
                data += byte
            answer = json.loads(data[:-1])
            if answer.get("id") == self.count:
                return answer["result"]

    def run(self, script: str) -> Any:
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        return found["result"].get("value")

    def end(self) -> None:
        self.call("Browser.close")
        self.process.wait(30)
        self.answers.close()
        os.close(self.to)


@pytest.mark.slow
@pytest.mark.skipif(not BROWSER, reason="needs Chromium")
def test_page_in_a_browser_equals_replay(network, examples, tmp_path):
    """The outputs for the examples, and what the page shows for digits that are drawn by a mouse
    and by a finger.
    """
    (tmp_path / "page.html").write_text(f"<!doctype html>{PAGE.read_text()}")
    browser = Browser((tmp_path / "page.html").as_uri(), tmp_path)
    images = base64.b64encode(examples.tobytes()).decode()
    found = np.swapaxes(browser.run(EXAMPLES.replace("IMAGES", images)), 0, 1)
    np.testing.assert_array_equal(found, expected(network, examples))
    box = browser.run("document.querySelector('canvas').getBoundingClientRect().toJSON()")

    def place(x: float, y: float) -> dict[str, float]:
        return {"x": box["x"] + x * box["width"], "y": box["y"] + y * box["height"]}

    def mouse(kind: str, *at: float) -> None:
        where = place(*at) if at else {"x": 0, "y": 0}
        browser.call("Input.dispatchMouseEvent", type=kind, button="left", buttons=1, **where)

    def touch(kind: str, *at: float) -> None:
        browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=[place(*at)] if at else [])

    seven = [(0.2, 0.2), (0.5, 0.2), (0.75, 0.2), (0.6, 0.55), (0.45, 0.85)]
    one = [(0.5, y) for y in (0.15, 0.5, 0.85)]
    for send, events, points, answer in (
        (mouse, ("mousePressed", "mouseMoved", "mouseReleased"), seven, 7),
        (touch, ("touchStart", "touchMove", "touchEnd"), one, 1),
    ):
        browser.run("document.querySelector('.digits button').click()")
        start, move, end = events
        send(start, *points[0])
        for point in points[1:]:
            send(move, *point)
        send(end)
        drawn = browser.run(SHOWN)
        pixels = np.array(drawn["pixels"], np.uint8)
        assert pixels.max() == 255
        wanted = expected(network, pixels[None])[:, 0]
        np.testing.assert_array_equal(drawn["outputs"], wanted)
        assert drawn["marks"] == wanted[:, :100].sum()
        assert drawn["answer"] == str(wanted[:, 100:].sum(0).argmax()) == str(answer)
    browser.end()
