"""``make screenshots``: docs/images/status-*.png, the status page of a fleet as fleet_sample.py has it, by Chromium."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.browser import Browser
from tests.unit import fleet_sample as sample

IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"
# 2026-11-22 12:03:15 UTC.
AT = 1795348995.0
# Name: width, height, dark, phone.
PICTURES = {
    "status-light.png": (1180, 1010, False, False),
    "status-dark.png": (1180, 1010, True, False),
    "status-phone.png": (390, 1400, False, True),
}


def main() -> int:
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place, Browser() as browser:
        directory = Path(place)
        page = sample.STATUS["render"](sample.fleet(directory / "hosts", AT), 120)
        (directory / "index.html").write_text(page, encoding="utf-8")
        (directory / "style.css").write_text(sample.STATUS["style"](120), encoding="utf-8")
        for name, (width, height, dark, phone) in PICTURES.items():
            browser.view(width, height, dark, phone, scripts=False)
            browser.open(f"file://{directory}/index.html")
            browser.screenshot(IMAGES / name, whole=False)
            print(f"docs/images/{name}: {(IMAGES / name).stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
