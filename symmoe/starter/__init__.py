"""The embedded pool as data: pool file, recipes, adapters with their cards, presets."""
