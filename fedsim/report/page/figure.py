"""A figure of a page; this module, unlike those that make figures, does not need Altair."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """A figure of a page."""

    name: str
    title: str
    chart: Any
    """Of Altair, over the table of the page called ``data``"""
    data: str
    canvas: bool = False
    """Whether it is drawn as pixels, since it has thousands of marks"""

    def spec(self) -> dict[str, Any]:
        """Return the Vega-Lite document, without its data."""
        # Altair's own check takes longer than all the rest, and a test has every figure checked.
        document: dict[str, Any] = self.chart.properties(description=self.title).to_dict(validate=False)
        document["usermeta"] = {"embedOptions": {"renderer": "canvas" if self.canvas else "svg"}}
        for wrapped in ("config", "$schema"):  # the page has its own look, and the schema's address is no use to it
            document.pop(wrapped, None)
        return document
