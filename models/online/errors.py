"""What the online store raises; the messages say what to do."""


class StoreError(Exception):
    """The store cannot do what it was asked."""


class StoreDownError(StoreError):
    """The store does not answer now. Nothing of the call is acknowledged; the same call may succeed later."""


class RowError(StoreError):
    """Bytes in the store that are no row of this version."""
