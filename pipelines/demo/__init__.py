"""The whole system over the simulated platform."""
