"""Input from outside, as tables of the contract."""
