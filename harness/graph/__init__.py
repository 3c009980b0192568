"""The Graph: the only thing that code generation and the reference executor read."""
