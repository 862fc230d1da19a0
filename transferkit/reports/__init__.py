"""Self-contained HTML pages: what reports about images share."""

from transferkit.reports.charts import chart
from transferkit.reports.page import check_report, write_page
from transferkit.reports.thumbnails import Thumbnail, make_thumbnails

__all__ = ["Thumbnail", "chart", "check_report", "make_thumbnails", "write_page"]
