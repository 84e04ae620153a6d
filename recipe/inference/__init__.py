"""Engines that run a model. Only this folder imports unsloth, bitsandbytes and llama_cpp."""
