"""x"""

import pytest

pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),  # Prefect leaves its clients' open
]


def test_table(table_run):
    print(table_run)


def test_series(series_run):
    print(series_run)
