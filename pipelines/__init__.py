"""Jobs of the pipeline: each reads tables, writes tables, and is idempotent per day. Imports models, never serve."""
