"""What is told of each request besides its answer: a line in the log, and a trace. Neither holds prompts unasked."""
