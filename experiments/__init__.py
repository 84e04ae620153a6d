"""The research around the recipe: baselines and ablations, and people who compare rationales. Run from a checkout."""
