"""Optional C kernels for llama.cpp on x86-64. Nothing outside this folder needs them; SRE_KERNELS=native loads them."""
