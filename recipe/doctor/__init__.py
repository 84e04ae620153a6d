"""What this machine has, and what is missing."""
