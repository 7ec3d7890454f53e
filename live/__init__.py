"""A real vLLM pool: what talks to servers over HTTP."""
