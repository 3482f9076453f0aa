"""The endpoint, started and asked."""
