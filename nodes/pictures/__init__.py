"""What nodes draw themselves: charts, grids and pages."""
