"""From a recipe to a LoRA expert."""
