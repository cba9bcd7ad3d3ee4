"""Makes ``results/README.md`` of the pages below ``results/``: ``python -m results.index``.

For each folder: its title, the first paragraph of its page, and the published numbers beside ours where
``fedsim.report`` has written them.
"""

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE / "README.md"
HEADING = """# Measured results

Each page has its numbers, the commands that made them, and what they say and do not say; most have CSVs
beside them. The folders of images that the commands name are described in [images.md](images.md). This page is made of
theirs by `python -m results.index`; a test compares.
"""


def first_paragraph(text: str) -> str:
    """Return the first paragraph that is no heading, as a sentence."""
    paragraphs = [part.strip() for part in text.split("\n\n")]
    return next(part for part in paragraphs if part and not part.startswith("#")).rstrip(":.") + "."


def section(folder: Path) -> str:
    """Return the section of a folder that has a page."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    title, _, rest = text.removeprefix("# ").partition("\n")
    words = re.sub(r"\]\((?!http)", f"]({folder.name}/", first_paragraph(rest))
    lines = [f"## [{title}]({folder.name}/README.md)", words]
    published = folder / "published.md"
    if published.exists():
        lines.append(published.read_text(encoding="utf-8").strip())
    if (folder / "comparison_rounds.png").exists():
        lines.append(f"![over rounds]({folder.name}/comparison_rounds.png)")
    return "\n\n".join(lines) + "\n"


def page() -> str:
    """Return ``results/README.md`` as it should be."""
    folders = sorted(path.parent for path in HERE.glob("*/README.md"))
    return "\n".join([HEADING, *(section(folder) for folder in folders)])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
