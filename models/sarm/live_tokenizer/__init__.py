"""The Live-Streaming Tokenizer (SARM, section 3.2)."""
