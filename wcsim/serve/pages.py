"""The pages, each put together of its parts in `page/` when the server starts: no build step, no other host.

Easy to get wrong: the policy allows script and style by the hash of exactly what the page holds.
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from importlib.resources import files

PARTS = {
    "drive": ("wire.js", "charts.js", "hand.js", "places.js", "futures.js", "drive.js"),
    "watch": ("charts.js", "watch.js"),
}
"""Page to its scripts, in order; they are one script in the end."""


def page_of(name: str) -> str:
    """The whole page as HTML."""
    folder = files("wcsim.serve").joinpath("page")

    def read(part: str) -> str:
        return folder.joinpath(part).read_text("utf-8")

    script = "\"use strict\";\n" + "\n".join(map(read, PARTS[name]))
    html = read(f"{name}.html")
    for tag, text in (("style", read("style.css")), ("script", script)):
        html = html.replace(f"<{tag}></{tag}>", f"<{tag}>\n{text}</{tag}>")
    return html


def content_policy(page: str) -> str:
    """What the page may load: its own script and style, by their hashes, and this server's websocket."""
    def hashes(tag: str) -> str:
        texts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        return " ".join(f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in texts)

    return (f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; connect-src 'self'; "
            "img-src data: blob:; media-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
