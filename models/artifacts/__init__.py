"""Published artifacts: folders that describe themselves, and the store that holds them."""
