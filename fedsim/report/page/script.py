"""The script that draws the figures of a page: Vega, Vega-Lite and vega-embed, as vl-convert bundles them."""

import gzip
import logging
import os
import zlib
from importlib.metadata import version
from pathlib import Path

from datasets.cache import cache_dir
from fedsim.core.errors import FileError
from fedsim.core.files import write_atomically, writing

log = logging.getLogger(__name__)

NAMES = "window.vegaEmbed = vegaEmbed;"
"""What the page calls of the bundle"""


def plotting_script() -> str:
    """Return the script; it is kept in the cache, since bundling it takes seconds and writing a page must not."""
    import vl_convert  # a library of 84 MB

    kept = cache_dir() / f"vega-{version('vl-convert-python')}.js.gz"
    if kept.is_file():
        try:
            return gzip.decompress(kept.read_bytes()).decode("utf-8")
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            log.warning("%s, the script of report.html, is damaged (%s) and made anew", kept, error)
    script = inside_a_page(vl_convert.javascript_bundle(NAMES))
    try:
        _keep(script, kept)
    except FileError as error:  # the page is complete without it
        log.warning("the script of report.html is made anew each time: %s", error)
    return script


def inside_a_page(script: str) -> str:
    """Return the script such that no text in it ends the element that it stands in."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _keep(script: str, path: Path) -> None:
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")  # two processes may keep it at once
    write_atomically(draft, lambda temporary: temporary.write_bytes(gzip.compress(script.encode("utf-8"))))
    with writing(path):
        draft.replace(path)
