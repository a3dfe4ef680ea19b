"""A study as one self-contained HTML page."""

from search.report.page import write_report

__all__ = ["write_report"]
