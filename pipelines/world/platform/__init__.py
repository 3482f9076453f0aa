"""The laws `platform` of the simulated platform: one room at a time, follows that last, text that composes."""
