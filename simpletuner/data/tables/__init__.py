"""Tables that say what is known about images: Parquet, JSON lines, CSV, and the JSON files of sd-scripts."""
