"""Training: LoRA experts from recipes, and small scorers."""
