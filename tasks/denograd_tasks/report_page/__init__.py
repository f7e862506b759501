"""The report of a cleaning run: one self-contained HTML page."""

from denograd_tasks.report_page.page import GateRow, ReportData, render_report
from denograd_tasks.report_page.uncertainty import ColumnUncertainty, Uncertainty

__all__ = ["ColumnUncertainty", "GateRow", "ReportData", "Uncertainty", "render_report"]
