"""The order of the stages, the run folder, the report."""
