"""Rows of any file of questions: the files, unpacked and told by their content, their rows, and what each asks."""
