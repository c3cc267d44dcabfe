"""What a run will take, and what it would be refused for, before it starts."""
