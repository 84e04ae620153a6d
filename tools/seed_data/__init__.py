"""The embedded seed data: small tasks whose score is computed from the texts. Knows no models."""
