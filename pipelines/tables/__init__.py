"""The contract, and the storage that holds it."""
