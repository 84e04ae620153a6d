"""Rows: from files, folders and hub data sets to `Example`."""
