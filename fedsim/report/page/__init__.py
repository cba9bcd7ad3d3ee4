"""``report.html``: one run, several or a sweep on one page, whose figures answer to the reader; it needs no network."""
