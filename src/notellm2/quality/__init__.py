"""Data quality: expectation suites, quarantine, Data Docs. The only room that imports great_expectations."""
