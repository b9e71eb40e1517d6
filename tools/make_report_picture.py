"""Take the picture of a report page that the README shows: from its title to the end of its first figure.

    ser-batch cross-validate tfrecords/emodb -o EmoDB --recipe functionals
    ser-batch report EmoDB -o EmoDB.html
    python tools/make_report_picture.py EmoDB.html docs/report.png

Needs Chromium and the Python package playwright.
"""

import argparse
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

WIDTH = 1180


def main() -> None:
    """Open the page in a browser and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path, help="HTML file of ser-batch report")
    parser.add_argument("out", type=Path, help="PNG file to write")
    options = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"]) as opened,
    ):
        page = opened.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        page.goto(options.page.resolve().as_uri())
        box = page.locator("figure").first.bounding_box()
        assert box is not None
        clip = {"x": 0.0, "y": 0.0, "width": float(WIDTH), "height": box["y"] + box["height"] + 16}
        page.screenshot(path=options.out, clip=clip, full_page=True)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
