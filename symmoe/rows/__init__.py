"""Rows of any file of questions: finding and unpacking files, reading their rows, and what each row asks."""
