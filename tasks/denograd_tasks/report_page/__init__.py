"""The report of a cleaning run: one self-contained HTML page."""

from denograd_tasks.report_page.page import GateRow, ReportData, render_report

__all__ = ["GateRow", "ReportData", "render_report"]
