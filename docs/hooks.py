"""What the site needs beside ``docs/``: pages from other folders, and links that work there as they do in the checkout.

Pages link to each other, to results and to code by relative paths, so that they can be read in the checkout and on a
forge. The site has the pages of ``PAGES`` and what they show. A link to any other file of the checkout leads to it at
``repo_url``, where ``mkdocs.yml`` has one, and is its text alone where not.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "results/README.md", "results/*/README.md")
"""The pages outside of ``docs/``; the pictures and tables beside them are files of the site, too."""
SHOWN = ("*.png", "*.csv")
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
BLOCK = re.compile(r"(^```.*?^```)", re.DOTALL | re.MULTILINE)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put each page of results behind the one that lists them."""
    (section,) = (entry["Measured"] for entry in config.nav or () if "Measured" in entry)
    section += [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob("results/*/README.md"))]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages outside of ``docs/`` and what they show, by their paths in the checkout."""
    pages = [path for pattern in PAGES for path in sorted(ROOT.glob(pattern))]
    folders = sorted({path.parent for path in pages} - {ROOT})
    shown = [path for folder in folders for pattern in SHOWN for path in sorted(folder.glob(pattern))]
    for path in [*pages, *shown]:
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the page with its links to files of the checkout as the site needs them; blocks of code do not change."""
    here = page.file.src_uri
    in_docs = (ROOT / "docs" / here).exists()
    folder = posixpath.dirname(f"docs/{here}" if in_docs else here)

    def changed(link: re.Match[str]) -> str:
        image, text, path, heading = link[1], link[2], link[3], link[4] or ""
        if not path or ":" in path:
            return link[0]
        target = posixpath.normpath(posixpath.join(folder, path))
        for name in (target.removeprefix("docs/"), f"{target}/README.md"):  # a folder is its page
            if files.get_file_from_path(name) is not None:
                return f"{image}[{text}]({posixpath.relpath(name, posixpath.dirname(here) or '.')}{heading})"
        if not (ROOT / target).exists():
            return link[0]  # a broken link, which --strict names
        return f"[{text}]({config.repo_url.rstrip('/')}/blob/main/{target}{heading})" if config.repo_url else text

    parts = BLOCK.split(markdown)  # every second one is a block of code
    return "".join(part if index % 2 else LINK.sub(changed, part) for index, part in enumerate(parts))
