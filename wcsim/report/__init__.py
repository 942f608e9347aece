"""What people see of a run: figures, side-by-side videos, and one page that holds them all."""
