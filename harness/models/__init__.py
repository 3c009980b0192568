"""Networks: one architecture per file, catalogue.py lists them, weights/ holds the shipped ones."""
