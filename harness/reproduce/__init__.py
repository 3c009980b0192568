"""The papers that this project is measured against: their methods run again, and their tables beside ours."""
