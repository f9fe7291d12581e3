"""Reports on finished runs as single HTML pages."""

from recmtl.report.page import report_html, write_report
from recmtl.report.runs import ReportedRun, open_runs
from recmtl.report.tables import difference_frame, metric_frame

__all__ = ["ReportedRun", "difference_frame", "metric_frame", "open_runs", "report_html", "write_report"]
