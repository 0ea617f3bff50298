#!/usr/bin/env python3
"""Hooks of mkdocs.yml: pages of the repository's root become pages of the site, and links to other files lead to the repository.

README.md is index.md. A link that leads nowhere is a warning of mkdocs, which `strict` makes an error.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PAGES = {"README.md": "index.md"} | {name: name for name in ("README.zh.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")}
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def on_files(files, config):
    for source, name in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text()))
    return files


def on_page_markdown(markdown, page, config, files):
    here = "" if page.file.src_uri in PAGES.values() else "docs"

    def link(found):
        if "://" in found[2]:
            return found[0]
        path = posixpath.normpath(posixpath.join(here, found[2]))
        if path in PAGES or path.startswith("docs/"):
            return f"{found[1]}{PAGES.get(path, path.removeprefix('docs/'))}{found[3]}"
        if not (ROOT / path).exists():
            return found[0]
        return f"{found[1]}{config.repo_url.rstrip('/')}/blob/main/{path}{found[3]}"

    return LINK.sub(link, markdown)


def on_post_page(output, page, config):
    """The theme would ask GitHub how many stars there are, from each reader's browser."""
    return output.replace(' data-md-component="source"', "")
