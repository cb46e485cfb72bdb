"""What the stack costs, measured: ``make bench`` prints the table that ``README.md`` here explains."""
