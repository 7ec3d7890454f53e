"""A simulated vLLM pool on SimPy that takes the same scheduling decisions as vLLM itself."""
