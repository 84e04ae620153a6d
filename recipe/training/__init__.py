"""The stages that train a judge. They never import each other: they meet in files of the run folder."""
