"""Multi-agent workflows, and the controller that runs them: pure, no clock, no I/O."""
