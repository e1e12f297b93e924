"""The pictures that nodes draw themselves: charts, grids and pages."""
