"""Judging routers by replay: recorded scores of real models say what each choice would have earned."""
