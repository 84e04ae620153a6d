"""Generation and model loading with PyTorch, Unsloth and vLLM."""
