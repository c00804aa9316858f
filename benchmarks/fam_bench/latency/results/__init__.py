"""From measured times to figures, tables, plots and comparisons."""
