"""Links from pages to files of the repository that are no pages: on the site they are downloads."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((\.\./[^)#\s]+)(#[^)\s]*)?\)")


def as_downloads(app: Sphinx, page: str, source: list[str]) -> None:
    """Files outside docs become downloads; of a folder there the name stays, without a link."""
    here = Path(app.env.doc2path(page)).parent

    def link(match: re.Match[str]) -> str:
        text, target, _ = match.groups()
        file = (here / target).resolve()
        if file.is_relative_to(app.srcdir) or not file.exists():
            return match[0]
        return f"[{text}](path:{target})" if file.is_file() else text

    if page.partition("/")[0] not in ("gallery", "api"):
        source[0] = LINK.sub(link, source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("source-read", as_downloads)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
