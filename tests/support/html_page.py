"""Look at an HTML page, as text and in a browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

VOID = {"meta", "br", "link", "img"}


class Page(HTMLParser):
    """What a browser would see: text, ids, references; complains about tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.tags: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        self._look_at(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._look_at(attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip() and self._open[-1:] != ["style"]:
            self.text.append(" ".join(data.split()))

    def _look_at(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"href", "src", "xlink:href", "srcset"}:
                self.targets.append(value or "")


def shown(page: Page, text: str) -> bool:
    """Whether the page has the text, wherever its elements begin and end."""
    return text in " ".join(page.text)


MEASURE = """
<script>
addEventListener("load", () => {
  const figures = [...document.querySelectorAll("figure")].map(figure => {
    const box = figure.getBoundingClientRect();
    const letters = [...figure.querySelectorAll("text")].map(text => {
      const {a, b} = text.getScreenCTM();
      return parseFloat(getComputedStyle(text).fontSize) * Math.hypot(a, b);
    });
    return {
      width: box.width, height: box.height, marks: figure.querySelectorAll("path, text").length,
      smallest_letters: Math.min(...letters), content_width: figure.scrollWidth
    };
  });
  const root = document.documentElement;
  root.setAttribute("data-seen", JSON.stringify(
    {figures, errors: window.seenErrors, width: root.clientWidth, content_width: root.scrollWidth}
  ));
});
</script>
"""
CATCH = """
<script>
window.seenErrors = [];
// Captured, for what cannot be loaded does not bubble; and what a browser's console would have in red.
addEventListener("error", event => window.seenErrors.push(event.message || event.target.outerHTML), true);
console.error = (...words) => window.seenErrors.push(words.join(" "));
</script>
"""


def in_browser(html: str, folder: Path, *, width: int) -> dict[str, Any]:
    """Open a page in headless Chromium; return its figures' sizes, its errors and its width.

    Skips the test where there is no Chromium.
    """
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium to open the page: none of chromium, chromium-browser, google-chrome is installed")
    page = folder / f"page-{width}.html"
    page.write_text(html.replace("<head>", f"<head>{CATCH}").replace("</body>", f"{MEASURE}</body>"))
    command = [
        *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *(f"--user-data-dir={folder / f'profile-{width}'}", f"--window-size={width},2000"),
        *("--dump-dom", page.as_uri()),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'data-seen="([^"]*)"', done.stdout)
    assert found, done.stderr
    seen: dict[str, Any] = json.loads(found[1].replace("&quot;", '"'))
    return seen
