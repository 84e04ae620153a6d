"""What this machine has, what is missing, and whether the GPU paths run here."""
