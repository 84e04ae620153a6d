"""A finished run as tables, charts and one HTML page."""
