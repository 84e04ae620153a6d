"""Stages TRAIN a judge. They never import each other: they meet in files of the run folder."""
