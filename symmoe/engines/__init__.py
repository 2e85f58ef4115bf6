"""The engines that run experts: vLLM for real work, echo for unit tests."""
