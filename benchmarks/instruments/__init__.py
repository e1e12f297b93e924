"""What benchmarks measure with: time, memory, resumable rows and plots."""
