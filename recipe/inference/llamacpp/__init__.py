"""Generation with llama.cpp on a CPU: many sequences side by side, prompts shared."""
