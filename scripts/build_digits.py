"""Build docs/web/digits.html, the part of a page with a network of integers that reads drawn digits.

    python scripts/build_digits.py            the page, from the network in docs/web/digits.json.gz
    python scripts/build_digits.py --train    train the network first, by docs/web/train.py (a minute)

It needs the extra ``train``, and the package ``ziglang``, which compiles the C program of the network to WebAssembly.
The result is one piece of HTML without links to other files. Pages of the site include it.
"""

import argparse
import base64
import gzip
import io
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from string import Template

import matplotlib.pyplot as plt
import numpy as np

from spikegrad import Network
from spikegrad.data import load as load_data
from spikegrad.integers import load, replay, save, to_c

WEB = Path(__file__).parent.parent / "docs" / "web"
NETWORK, PAGE = WEB / "digits.json.gz", WEB / "digits.html"
STEPS, SHOWN = 20, 3
WRAPPER = """\
#include "digits.c"
#define EXPORT(name) __attribute__((export_name(name)))
static digits_state state;
static int32_t inputs[DIGITS_INPUTS], outputs[DIGITS_OUTPUTS];
EXPORT("inputs") int32_t *web_inputs(void) { return inputs; }
EXPORT("outputs") int32_t *web_outputs(void) { return outputs; }
EXPORT("start") void web_start(void) { digits_start(&state); }
EXPORT("step") void web_step(void) { digits_step(&state, inputs, outputs); }
"""
COMPILE = "cc -target wasm32-wasi -mexec-model=reactor -std=c99 -O3 -s"


def train() -> None:
    """Run docs/web/train.py, and keep its network."""
    here, space = Path.cwd(), {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            exec((WEB / "train.py").read_text(), space)
        finally:
            os.chdir(here)
        save(space["network"], Path(folder, "digits.json"))
        data = Path(folder, "digits.json").read_bytes()
    NETWORK.write_bytes(gzip.compress(data, mtime=0))


def saved_network() -> Network:
    """The network of the page, whose outputs are also the spikes of the hidden layer."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "digits.json")
        path.write_bytes(gzip.decompress(NETWORK.read_bytes()))
        network = load(path)
    return Network(network.layers, network.inputs, [*network.layers])


def module_of(network: Network) -> bytes:
    """The C program of a network as WebAssembly."""
    with tempfile.TemporaryDirectory() as folder:
        print(to_c(network, Path(folder, "digits")))
        Path(folder, "web.c").write_text(WRAPPER)
        compiler = [sys.executable, "-m", "ziglang", *COMPILE.split()]
        subprocess.run([*compiler, "web.c", "-o", "web.wasm"], cwd=folder, check=True)
        return Path(folder, "web.wasm").read_bytes()


def thresholds() -> np.ndarray:
    """The thresholds of the pixels at each step, as in the script of the page."""
    numbers, x, mask = [], 1, 2**32 - 1
    for _ in range(STEPS * 784):
        x ^= x << 13 & mask
        x ^= x >> 17
        x ^= x << 5 & mask
        numbers.append(x % 255)
    return np.array(numbers).reshape(STEPS, 784)


def example_images() -> np.ndarray:
    """An image of each class: the first test image that the network reads correctly, 784 bytes."""
    test, network = load_data("mnist5k").test.as_batch(), saved_network()
    pixels = np.rint(test.x[0].reshape(-1, 784) * 255).astype(np.uint8)
    _, outputs = replay(network, (pixels > thresholds()[:, None]).astype(int))
    answers = outputs[network.outputs[-1]].mean(0).argmax(-1)
    print(f"test accuracy {(answers == test.y).mean():.1%}")
    return np.stack([pixels[(test.y == k) & (answers == k)][0] for k in range(10)])


def still(pixels: np.ndarray) -> str:
    """A picture of an image, PNG as text."""
    stream = io.BytesIO()
    plt.imsave(stream, pixels.reshape(28, 28), cmap="gray_r", format="png")
    return as_text(stream.getvalue())


def as_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def page_of(network: Network, module: bytes) -> str:
    """The template with the module, the examples, and the curves of one of these for readers without JavaScript."""
    images = example_images()
    _, outputs = replay(network, (images[SHOWN] > thresholds()).astype(int)[:, None])
    spikes, potentials = (np.asarray(outputs[name])[:, 0] for name in network.outputs)
    hidden, classes = spikes.shape[1], potentials.shape[1]
    best = int(potentials.mean(0).argmax())
    x = 32 + np.arange(STEPS) * 216 / (STEPS - 1)
    y = 246 - (potentials - potentials.min()) / np.ptp(potentials) * 230
    lines = []
    for k in range(classes):
        points = "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(x, y[:, k], strict=True))
        kind = ' class="best"' if k == best else ""
        lines.append(f'<path{kind} d="M{points}"/>')
    lines.append(f'<text class="best" x="254" y="{y[-1, best] + 5:.1f}">{best}</text>')
    marks = [f"M{32 + t * 236 / STEPS:.1f} {12 + n * 236 / hidden:.1f}h8" for t, n in np.argwhere(spikes)]
    return Template((WEB / "template.html").read_text()).substitute(
        steps=STEPS,
        hidden=hidden,
        classes=classes,
        shown=SHOWN,
        answer=best,
        spikes="".join(marks),
        potentials="".join(lines),
        still=still(images[SHOWN]),
        examples=as_text(images.tobytes()),
        module=as_text(module),
    )


def module_in(page: str) -> bytes:
    """The module of a page."""
    return base64.b64decode(re.search(r'instantiate\(bytesOf\("([^"]+)"', page)[1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--train", action="store_true", help="train the network first")
    if parser.parse_args().train:
        train()
    network = saved_network()
    module = module_of(network)
    page = page_of(network, module)
    PAGE.write_text(page)
    print(f"module {len(module):,} bytes, page with it {len(page):,}")


if __name__ == "__main__":
    main()
