"""What is done before and after a graph with a known task: docs/tasks.md."""
