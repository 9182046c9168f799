"""llms.txt and llms-full.txt, the site as plain text for language models (https://llmstxt.org).

The pages are Markdown already, the scripts of the gallery are Python, and the API is what the docstrings say.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from external_types import imported
from sphinx.addnodes import toctree
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

FENCE = re.compile(r"^(`{3,}|:{3,})(\{?).*?^\1$\n?", re.MULTILINE | re.DOTALL)


def _text(env: BuildEnvironment, page: str) -> str:
    """A page as it was written, without what only builds the site."""
    path = Path(env.doc2path(page))
    if page.startswith("gallery/"):
        return (
            f"# {env.titles[page].astext()}\n\n```python\n{path.with_suffix('.py').read_text('utf-8')}```\n"
        )
    text = path.read_text("utf-8")
    if included := re.match(r"```\{include\} (\S+)", text):
        return (path.parent / included[1]).read_text("utf-8")
    return FENCE.sub(lambda fence: "" if fence[2] else fence[0], text)


def _summary(text: str) -> str:
    """The first sentence below the title; of a script, that of its docstring."""
    if script := re.search(r"^```python\n(\"\"\".*)^```$", text, re.MULTILINE | re.DOTALL):
        text = (ast.get_docstring(ast.parse(script[1])) or "").partition("\n\n")[2]
    paragraphs = [part for part in FENCE.sub("", text).split("\n\n") if re.match(r"[^#|<>!:-]", part.strip())]
    sentence = re.split(r"(?<=\.)\s", " ".join(paragraphs[0].split()))[0] if paragraphs else ""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", sentence)


def _api(env: BuildEnvironment) -> Iterator[str]:
    for name, entry in sorted(env.get_domain("py").objects.items()):
        value = imported(name)
        if entry.aliased or entry.objtype == "module" or not getattr(value, "__doc__", None):
            continue
        try:
            signature = str(inspect.signature(value))
        except (TypeError, ValueError):
            signature = ""
        call = f"{name.rpartition('.')[2]}{signature}"
        yield f"## {name}\n\n```python\n{call}\n```\n\n{inspect.cleandoc(value.__doc__)}\n"


def _groups(env: BuildEnvironment, page: str, group: str) -> Iterator[tuple[str, str]]:
    """The pages below a page in the order of the site, each with the caption of the group that it is in."""
    for tree in env.get_doctree(page).findall(toctree):
        for _, below in tree["entries"]:
            title = tree.get("caption") or (env.titles[below].astext() if below == "gallery/index" else group)
            yield title, below
            yield from _groups(env, below, title)


def write(app: Sphinx, exception: Exception | None) -> None:
    if exception or app.builder.name != "html":
        return
    env = app.env
    pages = [("", "index"), *_groups(env, "index", "Pages")]
    texts = {
        page: _text(env, page)
        for _, page in pages
        if page.partition("/")[0] != "api" and page != "gallery/index"
    }
    lines = [f"# {app.config.project}", "", f"> {_summary(texts['index'])}", ""]
    for title in dict.fromkeys(title for title, page in pages if page in texts and title):
        lines += [f"## {title}", ""]
        for page in [page for group, page in pages if group == title and page in texts]:
            summary = _summary(texts[page])
            lines.append(f"- [{env.titles[page].astext()}]({app.builder.get_target_uri(page)}): {summary}")
        lines.append("")
    lines += [
        "## API",
        "",
        f"- [API]({app.builder.get_target_uri('api/index')}): every public function and class.",
    ]
    out = Path(app.outdir)
    (out / "llms.txt").write_text("\n".join(lines) + "\n", "utf-8")
    (out / "llms-full.txt").write_text("\n".join([*texts.values(), "# API\n", *_api(env)]), "utf-8")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
