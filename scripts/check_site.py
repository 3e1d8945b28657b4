"""Open every page of the built documentation in a browser, and report what readers would see broken.

    python scripts/check_site.py                      the pages in docs/_build
    python scripts/check_site.py FOLDER --browser PATH

It needs the dependency group ``browser`` and a Chromium. Each page is opened at 1400 pixels, a laptop, and at 420, a
phone. Code has 80 columns, which fit a laptop. On a phone it scrolls within its box, because wrapped Python is harder
to read than a line that you move. Nothing else may be wider than the page. The exit code is 1 if anything was found.
"""

import argparse
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parent.parent
WIDE, NARROW, HEIGHT = 1400, 420, 900
BROWSERS = "chromium", "chromium-browser", "google-chrome", "chrome"
REMOTE = "http", "https"
READABLE = 8  # pixels of the smallest letters in a picture
OPAQUE = re.compile(r'id="patch_1">\s*<path d="[^"]*" style="fill: #')  # the background of a figure of Matplotlib
AT_ANY_WIDTH = """() => {
  const parts = [document.documentElement, ...document.querySelectorAll(".content")];
  return [
    ...parts.filter(part => part.scrollWidth > part.clientWidth + 1).map(() => "the page scrolls sideways"),
    ...[...document.images].filter(image => !image.complete || !image.naturalWidth)
      .map(image => `image ${image.getAttribute("src")} did not load`),
    ...[...document.querySelectorAll("div.math")]
      .filter(formula => formula.scrollWidth > formula.clientWidth + 1)
      .filter(formula => getComputedStyle(formula).overflowX == "visible").map(() => "a formula is clipped"),
  ];
}"""
AT_WIDE = r"""() => {
  const text = element => element.textContent.trim();
  const shown = element => text(element).replace(/\s+/g, " ").slice(0, 60);
  const empty = element => !text(element) && !element.querySelector("img, mjx-container");
  const tables = [...document.querySelectorAll(".content table:not(.autosummary, .indextable)")]; // lists of names
  return [
    ...[...document.querySelectorAll("pre")].filter(pre => pre.scrollWidth > pre.clientWidth + 1)
      .map(pre => `code is clipped: ${shown(pre)}`),
    ...tables.filter(table => !table.tHead || [...table.tHead.rows[0].cells].some(empty))
      .map(table => `a table has a column without a header: ${shown(table.rows[0])}`),
    ...tables.filter(table => [...table.rows].some(empty))
      .map(table => `a table has an empty row: ${shown(table.rows[0])}`),
  ];
}"""
PICTURES = """() => [...document.images].filter(image => image.naturalWidth)
  .map(image => [image.src, image.clientWidth])"""


def faults_of(page, path):
    """What is wrong with one page, each in a line."""
    page.set_viewport_size({"width": WIDE, "height": HEIGHT})
    page.goto(path.resolve().as_uri())
    yield from page.evaluate(AT_WIDE)
    for width in (WIDE, NARROW):
        page.set_viewport_size({"width": width, "height": HEIGHT})
        yield from (f"{fault} at {width} pixels" for fault in page.evaluate(AT_ANY_WIDTH))
        for source, shown in page.evaluate(PICTURES):
            picture = Path(unquote(urlparse(source).path))
            size = smallest_letters(picture, shown)
            if size < READABLE:
                yield f"image {picture.name} has letters of {size:.1f} pixels at {width} pixels"
            if width == WIDE and picture.suffix == ".svg" and OPAQUE.search(picture.read_text()):
                yield f"image {picture.name} has a background, which is white on dark pages"


def smallest_letters(picture, width):
    """Pixels of the smallest text of an SVG file of Matplotlib that is shown ``width`` pixels wide.

    Matplotlib draws letters of 100 units, and scales each text to its size.
    """
    if picture.suffix != ".svg":
        return READABLE
    text = picture.read_text()
    sizes = [100 * float(scale) for scale in re.findall(r" scale\(([\d.]+) -", text)]
    box = re.search(r'viewBox="0 0 ([\d.]+)', text)
    return min(sizes) * width / float(box[1]) if sizes and box else READABLE


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "docs" / "_build", help="the built pages")
    parser.add_argument("--browser", default=next(filter(None, map(shutil.which, BROWSERS)), None), help="a Chromium")
    options = parser.parse_args()
    pages = sorted(path for path in options.folder.rglob("*.html") if "_static" not in path.parts)
    if not pages:
        parser.error(f"{options.folder} contains no pages; build the documentation first")
    if not options.browser:
        parser.error(f"no browser found: none of {', '.join(BROWSERS)}; pass --browser PATH")
    found = 0
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=options.browser)
        page = browser.new_page()
        requests = []
        page.on("request", lambda request: requests.append(request.url))
        for path in pages:
            faults = list(faults_of(page, path))
            faults += [f"{url} comes from another host" for url in requests if urlparse(url).scheme in REMOTE]
            requests.clear()
            for fault in faults:
                print(f"{path.relative_to(options.folder)}: {fault}", flush=True)
            found += len(faults)
        browser.close()
    print(f"{len(pages)} pages, {found} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
