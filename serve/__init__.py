"""The online side: what Ray Serve runs. Reads published artifacts, never tables; imports models, never pipelines."""
