"""GGUF files: read, written from a Hugging Face folder, and turned back into one."""
