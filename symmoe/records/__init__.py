"""What experts answered once, kept as files, so that policies can be tried on it without asking anybody again."""
