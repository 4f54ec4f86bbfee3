"""The live feed of top and stat."""
